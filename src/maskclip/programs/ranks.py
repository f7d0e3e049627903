"""Several processes of a run end together: one of them reports its error, and nobody waits for a process that has failed."""

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
"""Counters in the store of the process group: processes that have failed, and processes that have ended because of it."""
POLL = 0.5
GRACE = 10.0
"""Seconds between two looks at the store, and how long the process that failed waits until all others have ended."""

_children: list[subprocess.Popen[bytes]] = []  # that Lightning started; empty under torchrun and SLURM
_watcher: threading.Thread | None = None
_leaving = threading.Event()


class EndTogether(Callback):
    """Ends this process soon after another one has failed.

    A collective operation would wait for the failed process: with gloo until its connection closes, with NCCL until a
    timeout of half an hour or more. Python cannot interrupt that wait, so a thread ends the whole process.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        global _watcher
        if not several():
            return
        started: list[Any] = getattr(trainer.strategy.launcher, "procs", [])
        _children.extend(started)
        started.clear()  # Lightning's own observer would kill this process with SIGKILL, without a message
        if _watcher is None:
            _watcher = threading.Thread(target=_watch, name="end-together", daemon=True)
            _watcher.start()


def several() -> bool:
    """Whether this run has several processes, and they know each other."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def first_to_fail() -> bool:
    """Whether no other process has failed before; if so, it is for this one to report its error."""
    _leaving.set()
    try:
        return not several() or _get_default_store().add(FAILED, 1) == 1
    except RuntimeError:
        print("\nerror: the first process of this run has ended without a message; it may have run out of memory", file=sys.stderr)
        return False


def end(status: int) -> NoReturn:
    """End this process after the others, with an exit status. Of several, the others have ended or are stopped then."""
    if not several():
        sys.exit(status)
    deadline, others = time.monotonic() + GRACE, distributed.get_world_size() - 1
    with suppress(RuntimeError):
        while not killed() and _get_default_store().add(ENDED, 0) < others and time.monotonic() < deadline:
            time.sleep(0.05)
    _exit(status)


def leave(status: int = 2) -> NoReturn:
    """End this process because another one has failed and reports it."""
    with suppress(RuntimeError):
        _get_default_store().add(ENDED, 1)
    _exit(status)


def release() -> None:
    """Stop watching: this process has done its part, or ends on its own. Processes that it started and that run on are killed."""
    _leaving.set()
    if several() and sys.exc_info()[0] is not None:
        with suppress(RuntimeError):
            _get_default_store().add(ENDED, 1)
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
    """A sentence about a process that this one started and that was killed, if there is one."""
    signals = [-child.returncode for child in _children if (child.poll() or 0) < 0]
    return f"a process of this run was killed (signal {signals[0]}); it may have run out of memory" if signals else None


def _watch() -> None:
    while not _leaving.wait(POLL):
        message = killed()
        try:
            failed = _get_default_store().check([FAILED])
        except (RuntimeError, ValueError):  # the first process is gone, or the group: nothing to watch
            return
        if failed and not _leaving.is_set():
            leave()
        if message and not _leaving.is_set() and first_to_fail():
            print(f"\nerror: {message}", file=sys.stderr)
            end(2)
