"""Threads that write: bounded, complete, and with errors that reach the caller."""

from __future__ import annotations

import threading

import pytest

from maskclip.segmenting.writers import Writers


def fail() -> None:
    raise OSError("full")


def test_all_jobs_are_finished_at_the_end() -> None:
    done: list[int] = []
    with Writers(3) as writers:
        for number in range(50):
            writers.submit(lambda number=number: done.append(number))
    assert sorted(done) == list(range(50))


def test_the_number_of_waiting_jobs_is_bounded() -> None:
    gate, submitted = threading.Event(), threading.Semaphore(0)

    def submit_all(writers: Writers) -> None:
        for _ in range(20):
            writers.submit(gate.wait)
            submitted.release()

    with Writers(2) as writers:
        thread = threading.Thread(target=submit_all, args=(writers,))
        thread.start()
        assert all(submitted.acquire(timeout=10) for _ in range(8))
        assert not submitted.acquire(timeout=0.1)
        gate.set()
        thread.join()
    assert all(submitted.acquire(timeout=10) for _ in range(12))


def test_the_error_of_a_job_is_raised_at_the_end_or_by_the_next_submit() -> None:
    with pytest.raises(OSError, match="full"), Writers(1) as writers:
        writers.submit(fail)
    with pytest.raises(OSError, match="full"), Writers(1) as writers:
        for _ in range(20):
            writers.submit(fail)


def test_after_an_error_waiting_jobs_are_cancelled() -> None:
    gate, done = threading.Event(), []
    with pytest.raises(ZeroDivisionError), Writers(1) as writers:
        writers.submit(gate.wait)
        writers.submit(lambda: done.append(1))
        threading.Timer(0.2, gate.set).start()
        raise ZeroDivisionError
    assert done == []
