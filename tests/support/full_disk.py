"""Limits on the size of files, with which writing fails as on a full disk."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager


def limit_files() -> None:
    """Let no file of this process and its children grow beyond 8 kB: further writes raise "File too large"."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def no_room() -> Iterator[None]:
    """Apply `limit_files` in a with block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        limit_files()
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
