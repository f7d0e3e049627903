"""Timing: turns of several ways in one process, medians, and what a machine can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def seconds(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def compare(name: str, ours: Callable[[], object], textbook: Callable[[], object], runs: int, device: torch.device) -> None:
    """Print one row: median seconds of both and the median ratio, after one turn that is not counted."""
    turns = [(seconds(textbook, device), seconds(ours, device)) for _ in range(runs + 1)][1:]
    a, b = (statistics.median(turn[i] for turn in turns) for i in (0, 1))
    ratio = statistics.median(turn[0] / turn[1] for turn in turns)
    print(f"{name:<24}{a:>12.3f}{b:>12.3f}{ratio:>10.2f}x")


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
