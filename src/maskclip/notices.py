"""Warnings about data that are logged once in a run, for any number of images and loader processes."""

from __future__ import annotations

import logging
import mmap

logger = logging.getLogger("maskclip.data")

KINDS = ("profile", "grey range", "dark", "turned", "overlay")
_issued = mmap.mmap(-1, len(KINDS))  # anonymous shared memory: forked loader processes see and set the same flags


def warn_once(kind: str, message: str) -> None:
    """Log a warning, unless one of this kind (see `KINDS`) was logged by this process or one that shares its memory by fork."""
    index = KINDS.index(kind)
    if not _issued[index]:
        _issued[index] = 1
        logger.warning(message)


def reset() -> None:
    """Forget which warnings were logged."""
    _issued[:] = bytes(len(KINDS))
