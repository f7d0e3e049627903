"""What stops a write: a disk that fills up in the middle of a file, a person who interrupts."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class FullDisk(io.FileIO):
    """A file on a disk that has room for 2500 bytes of it."""

    def write(self, block: Any) -> int:
        room = 2500 - self.tell()
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(bytes(block)[:room])


@contextmanager
def full_disk() -> Iterator[None]:
    real: Callable[..., Any] = Path.open

    def opened(path: Path, mode: str = "r", *options: Any, **named: Any) -> Any:
        return FullDisk(path, mode) if mode in ("wb", "ab") else real(path, mode, *options, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opened)
        yield


def limit_files() -> None:
    """Let no file of this process and its children grow beyond 8 kB: writes then fail as on a full disk ("File too large")."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def no_room() -> Iterator[None]:
    """`limit_files` for a while."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        limit_files()
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def interrupted_after(writes: int, real: Callable[[Any, bytes, Path], None]) -> Callable[[Any, bytes, Path], None]:
    """`write_block` with an interrupt in place of the write after so many."""
    left = [writes]

    def write(stream: Any, block: bytes, path: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(stream, block, path)

    return write
