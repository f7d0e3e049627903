"""Threads that write files while the network computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType


class Writers:
    """A context manager with threads that run jobs, such as compressing and writing a PNG.

    At most four jobs per thread wait, which bounds the memory if computing is faster than writing. An exception of a job is
    raised by the next `submit` or at the end of the context, which waits for all jobs.
    """

    def __init__(self, threads: int) -> None:
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="writer")
        self.max_jobs = 4 * threads
        self.jobs: set[Future[None]] = set()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if error is None:
                self._wait_until(0)
        finally:
            self.threads.shutdown(cancel_futures=True)

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job in a thread; waits while `max_jobs` are unfinished."""
        self._wait_until(self.max_jobs - 1)
        self.jobs.add(self.threads.submit(job))

    def _wait_until(self, unfinished: int) -> None:
        """Wait until at most so many jobs are unfinished; raises the exceptions of finished jobs."""
        done = {job for job in self.jobs if job.done()}
        while True:
            for job in done:
                job.result()
            self.jobs -= done
            if len(self.jobs) <= unfinished:
                return
            done, _ = wait(self.jobs, return_when=FIRST_COMPLETED)
