"""End the processes of a run together: the first that fails reports its error, and no process waits for a failed one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import distributed
from torch.distributed.distributed_c10d import _get_default_store

from maskclip.files import discard_partials

FAILED, ENDED = "maskclip/failed", "maskclip/ended"
"""Keys of counters in the store of the process group: processes that failed, and processes that have ended or are about to."""
POLL = 0.5
GRACE = 10.0
"""Seconds between two checks of the store, and the longest wait for the end of the other processes."""

_children: list[subprocess.Popen[bytes]] = []  # started by Lightning; empty under torchrun and SLURM
_watcher: threading.Thread | None = None
_leaving = threading.Event()


class EndTogether(Callback):
    """Watches the processes of a trainer, see `watch`."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        watch(trainer.strategy.launcher)


def watch(launcher: Any) -> None:
    """End this process soon after another one has failed. `launcher` is that of Lightning or Fabric.

    A collective operation would wait for the failed process: with gloo until its connection closes, with NCCL until a
    timeout of half an hour or more. Python cannot interrupt that wait, so a thread ends the whole process.
    """
    global _watcher
    if not several():
        return
    children: list[subprocess.Popen[bytes]] = getattr(launcher, "procs", [])
    _children.extend(children)
    children.clear()  # Lightning's own observer would kill this process with SIGKILL, without a message
    if _watcher is None:
        _watcher = threading.Thread(target=_watch, name="end-together", daemon=True)
        _watcher.start()


def several() -> bool:
    """Whether this run has several processes that are connected."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def first_to_fail(error: Exception | None = None) -> bool:
    """Whether no other process has failed before, so that this one must report its `error`."""
    _leaving.set()
    try:
        return not several() or _get_default_store().add(FAILED, 1) == 1
    except RuntimeError:  # the first process, which holds the store, has ended
        if not _is_of_connection(error):
            return True
        print("\nerror: the first process of this run has ended without a message; it may have run out of memory", file=sys.stderr)
        return False


def _is_of_connection(error: Exception | None) -> bool:
    """Whether an error only means that another process has ended. gloo raises no special class of errors."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def end(status: int) -> NoReturn:
    """End this process with an exit status after the others have ended; stops those that it started."""
    if not several():
        sys.exit(status)
    with suppress(RuntimeError):
        _wait(distributed.get_world_size() - 1)
        _get_default_store().add(ENDED, 1)
    _exit(status)


def _wait(count: int) -> None:
    """Wait until so many processes have ended or one was killed, but not longer than `GRACE`."""
    deadline = time.monotonic() + GRACE
    while not killed() and _get_default_store().add(ENDED, 0) < count and time.monotonic() < deadline:
        time.sleep(0.05)


def leave(status: int = 2) -> NoReturn:
    """End this process because another one has failed and reports its error."""
    with suppress(RuntimeError):
        _get_default_store().add(ENDED, 1)
    _exit(status)


def release() -> None:
    """Stop watching at the end of this process; after an error, kill the processes that it started.

    The first process holds the store and ends last. Otherwise a later error of another process could not be reported.
    """
    _leaving.set()
    if not several():
        return
    failed = sys.exc_info()[0] is not None
    with suppress(RuntimeError):
        _get_default_store().add(ENDED, 1)
        if distributed.get_rank() == 0 and not failed:
            _wait(distributed.get_world_size())
    if failed:
        _kill_children()


def _exit(status: int) -> NoReturn:
    # not sys.exit: handlers that run at the end of a process wait for the others once more
    _kill_children()
    discard_partials()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _kill_children() -> None:
    for child in _children:
        child.kill()


def killed() -> str | None:
    """A message about a process that this one started and that was killed; None without such a process."""
    signals = [-child.returncode for child in _children if (child.poll() or 0) < 0]
    return f"a process of this run was killed (signal {signals[0]}); it may have run out of memory" if signals else None


def _watch() -> None:
    while not _leaving.wait(POLL):
        message = killed()
        try:
            failed = _get_default_store().check([FAILED])
        except (RuntimeError, ValueError):  # the first process or the process group has ended: nothing to watch
            return
        if failed and not _leaving.is_set():
            leave()
        if message and not _leaving.is_set() and first_to_fail():
            print(f"\nerror: {message}", file=sys.stderr)
            end(2)
