"""Writing beside computing: bounded, in full, and loud where it fails."""

from __future__ import annotations

import threading
import time

import pytest

from maskclip.segmenting.writers import Writers


def fail() -> None:
    raise OSError("full")


def test_all_jobs_are_done_at_the_close() -> None:
    done: list[int] = []
    writers = Writers(3)
    for number in range(50):
        writers.submit(lambda number=number: done.append(number))
    writers.close()
    assert sorted(done) == list(range(50))


def test_few_jobs_wait() -> None:
    gate, handed = threading.Event(), []

    def hand_over(writers: Writers) -> None:
        for number in range(20):
            writers.submit(gate.wait)
            handed.append(number)

    writers = Writers(2)
    thread = threading.Thread(target=hand_over, args=(writers,))
    thread.start()
    time.sleep(0.2)
    assert len(handed) == writers.most == 8
    gate.set()
    thread.join()
    writers.close()
    assert len(handed) == 20


def test_a_failure_is_raised_once_it_is_known() -> None:
    writers = Writers(1)
    writers.submit(fail)
    with pytest.raises(OSError, match="full"):
        writers.close()
    writers = Writers(1)
    writers.submit(fail)
    time.sleep(0.1)
    with pytest.raises(OSError, match="full"):
        writers.submit(fail)
