"""Files, written so that a kill at any moment leaves the old one or the new one."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskclip.errors import InputError

HOST = f"{zlib.crc32(platform.node().encode()):08x}"
PARTIAL = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.partial")
FORGOTTEN = 3600.0
"""After so many seconds without a write a file that is being written is not, whoever began it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which becomes `path` in the end, or vanishes if writing fails.

    The folder is made; several processes, on several machines, may write the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder` and below.

    These are files named as `replacing` names them whose process on this machine is gone, or that nobody has written to
    for an hour. Nothing may be in the middle of writing in this process.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            if found := PARTIAL.fullmatch(name):
                path = Path(place, name)
                try:
                    if (found[1] == HOST and _gone(int(found[2]))) or time.time() - path.stat().st_mtime > FORGOTTEN:
                        path.unlink()
                except FileNotFoundError:
                    continue  # another process was quicker


def _gone(process: int) -> bool:
    if process == os.getpid():  # in a container that was started again, numbers are the same
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what goes wrong in writing to `path` into one sentence."""
    try:
        yield
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"the disk is full, at {path}: free some space and run again, to go on from there") from cause
        raise InputError(f"cannot write {path}: {cause.strerror or cause}") from cause


def write_text(path: Path, text: str) -> None:
    """Write a text file; atomic. Names of files that are no UTF-8 keep their bytes."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: Path, content: object) -> None:
    """Write JSON; atomic."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
