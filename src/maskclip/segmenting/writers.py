"""Threads that write while the next pictures are computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait


class Writers:
    """A few threads that do what they are handed, such as compressing a PNG and writing it.

    At most four jobs a thread wait, so that memory stays bounded where computing is faster than writing. What a job raises,
    the next `submit` or `close` raises.
    """

    def __init__(self, threads: int) -> None:
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="writer")
        self.most = 4 * threads
        self.jobs: set[Future[None]] = set()

    def submit(self, job: Callable[[], None]) -> None:
        """Hand over a job; waits while too many are under way."""
        self._settle(room_for=1)
        self.jobs.add(self.threads.submit(job))

    def close(self) -> None:
        """Wait until all jobs are done."""
        try:
            self._settle(room_for=self.most)
        finally:
            self.threads.shutdown(cancel_futures=True)

    def _settle(self, room_for: int) -> None:
        done = {job for job in self.jobs if job.done()}
        while True:
            for job in done:
                job.result()
            self.jobs -= done
            if len(self.jobs) <= self.most - room_for:
                return
            done, _ = wait(self.jobs, return_when=FIRST_COMPLETED)
