"""Timing: turns of several ways in one process, medians, and what a machine can do."""

from __future__ import annotations

import ctypes
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESIDENT = Path("/proc/self/statm")


def seconds(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def median_seconds(call: Callable[[], object], runs: int, device: torch.device) -> float:
    """Of one call, after one that is not counted."""
    return statistics.median([seconds(call, device) for _ in range(runs + 1)][1:])


def take_turns(one: Callable[[], object], other: Callable[[], object], runs: int, device: torch.device) -> list[tuple[float, float]]:
    """Seconds of both in each turn; a first turn is not counted."""
    return [(seconds(one, device), seconds(other, device)) for _ in range(runs + 1)][1:]


def growth(call: Callable[[], object], device: torch.device) -> float | None:
    """By how many GB the memory in use grows at most during a call: torch's on a GPU, else this process's, looked at every millisecond.

    None where the system does not say what a process has in use (/proc of Linux). What earlier calls freed goes back to the system
    first: a call that takes it again would seem to need nothing.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e9
    if not RESIDENT.is_file():
        return None
    _trim()
    before, most, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(most - before, 0) / 1e9


def _resident() -> int:
    return int(RESIDENT.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _trim() -> None:
    """Give freed memory back to the system, where the C library is one that keeps it and can (glibc)."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def milliseconds(call: Callable[[int], object], runs: int) -> float:
    """Of one call, the median of `runs` rounds of 40 calls, which get the numbers 0, 1, 2 ..."""
    call(0)
    rounds = []
    for _ in range(runs):
        start = time.perf_counter()
        for number in range(40):
            call(number)
        rounds.append((time.perf_counter() - start) / 40)
    return 1000 * statistics.median(rounds)
