"""Timing of calls that take turns, medians, and the growth of memory."""

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
    """Seconds of one call, including the work that it queues on a GPU."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def median_seconds(call: Callable[[], object], runs: int, device: torch.device) -> float:
    """Median seconds of `runs` calls, after one for warming up."""
    return statistics.median([seconds(call, device) for _ in range(runs + 1)][1:])


def take_turns(first: Callable[[], object], second: Callable[[], object], runs: int, device: torch.device) -> list[tuple[float, float]]:
    """Seconds of both calls in each of `runs` turns, after one turn for warming up."""
    return [(seconds(first, device), seconds(second, device)) for _ in range(runs + 1)][1:]


def milliseconds(call: Callable[[int], object], runs: int) -> float:
    """Milliseconds of one call: the median over `runs` rounds of 40 calls with the arguments 0, 1, 2 ..."""
    call(0)
    rounds = []
    for _ in range(runs):
        start = time.perf_counter()
        for number in range(40):
            call(number)
        rounds.append((time.perf_counter() - start) / 40)
    return 1000 * statistics.median(rounds)


def growth(call: Callable[[], object], device: torch.device) -> float | None:
    """The most memory in GB that a call adds: what torch allocates on a GPU, else this process, sampled every millisecond.

    None on systems without /proc. Memory that earlier calls freed is returned to the system first; otherwise a call could
    reuse it and would seem to need nothing.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e9
    if not RESIDENT.is_file():
        return None
    _trim()
    before, peak, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(peak - before, 0) / 1e9


def reset_peak(device: torch.device) -> None:
    """Let `peak_memory` measure from here on. Freed memory is returned to the system first. Without /proc, nothing happens."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif RESIDENT.is_file():
        _trim()
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the present size, see proc(5)


def _resident() -> int:
    return int(RESIDENT.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _trim() -> None:
    """Return freed memory to the system. Only glibc has this function."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
