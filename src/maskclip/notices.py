"""Warnings about data that appear once a run, however many images and loader processes there are."""

from __future__ import annotations

import logging
import mmap

logger = logging.getLogger("maskclip.data")

KINDS = ("profile", "grey range", "dark", "turned", "overlay")
_issued = mmap.mmap(-1, len(KINDS))  # anonymous memory is shared with forked processes, such as the loader's workers


def warn_once(kind: str, message: str) -> None:
    """Log a warning unless this process, or one forked from the same parent, has logged one of this kind (see `KINDS`)."""
    index = KINDS.index(kind)
    if not _issued[index]:
        _issued[index] = 1
        logger.warning(message)


def reset() -> None:
    """Let every kind of warning appear once more."""
    _issued[:] = bytes(len(KINDS))
