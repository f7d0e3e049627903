"""What the programs share: their errors, and the trainer."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.distributed.constants import default_pg_timeout

from maskclip.errors import InputError, is_count, require
from maskclip.files import is_full, writing
from maskclip.programs import ranks
from maskclip.programs.config import build, plain


class RunFolder(Callback):
    """Ends a program with a sentence where Hydra could not write its files to the run's folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self.check(Path(config.hydra.run.dir), config.hydra.output_subdir is not None)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.check(Path(config.hydra.sweep.dir), True)

    def check(self, folder: Path, written: bool) -> None:
        """Create the folder and, if Hydra is going to write there, check that a file fits on the disk.

        The file has no name: every process of a run under torchrun or SLURM does this at the same time.
        """
        try:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                if written:
                    with tempfile.TemporaryFile(dir=folder) as file:
                        file.write(bytes(1 << 16))
        except InputError as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {error}; another place is chosen by paths.outputs=/path/to/folder", file=sys.stderr)
            sys.exit(2)


def be_quiet() -> None:
    """Keep what libraries tell of their own affairs off the screen."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(is not empty. Previous log files|Total length of `(list|DataLoader)`).*")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def program(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """A program whose input errors are one sentence on stderr and exit status 2, not a stack trace.

    Of several processes the first that fails reports it, and all end with its status. In a multirun Hydra runs the other
    jobs before it stops with the first one's sentence. HYDRA_FULL_ERROR=1 shows the stack trace of every error.
    """

    @wraps(main)
    def wrapped(cfg: DictConfig) -> Any:
        be_quiet()
        try:
            if missing := OmegaConf.missing_keys(cfg):
                raise InputError(f"please give {' and '.join(f'{key}=...' for key in sorted(missing))}")
            return main(cfg)
        except Exception as error:
            _report(error)
            raise
        finally:
            ranks.release()

    return wrapped


def _report(error: Exception) -> None:
    """Print the sentence of an error and end the program; returns where there is no sentence, but a stack trace to show."""
    if not ranks.first_to_fail(error):
        ranks.leave()
    message = None if os.environ.get("HYDRA_FULL_ERROR") == "1" else ranks.killed() or sentence(error)
    if message is None:
        if ranks.several():
            traceback.print_exc()
            ranks.end(1)
        return
    if HydraConfig.get().mode == RunMode.MULTIRUN and not ranks.several():
        raise CompactHydraException(f"error: {message}") from None
    print(f"\nerror: {message}", file=sys.stderr)  # below a progress bar that was cut short
    ranks.end(2)


def sentence(error: Exception) -> str | None:
    """What a user can do about an error, in a sentence; None for an error of the program."""
    if isinstance(error, OSError) and is_full(error):
        return f"the disk is full{f', at {error.filename}' if error.filename else ''}: free some space and run again"
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return (
            "a process that reads images was killed; it may have run out of memory: use fewer, num_workers=0 in src/segment.py and "
            f"data.num_workers=0 in the other programs ({error})"
        )
    return str(error) if isinstance(error, (InputError, MisconfigurationException, OSError)) else None


def build_trainer(cfg: DictConfig, patience: timedelta = default_pg_timeout, **options: Any) -> pl.Trainer:
    """The trainer of a config; over several processes, each waits for the others for so long.

    With `sync_batchnorm` null, batch statistics are synchronised if the run has several GPUs.
    Over several processes, buffers are not broadcast before each forward pass: in validation one process may have an
    image more than another and would wait for ever. The tasks share them when it matters.
    """
    settings = plain(cfg.trainer)
    options["callbacks"] = [*options.get("callbacks", ()), ranks.EndTogether()]
    devices = settings["devices"]
    check_trainer(cfg)
    on_cpu = settings["accelerator"] == "cpu" or (settings["accelerator"] == "auto" and not torch.accelerator.is_available())
    if on_cpu and devices in (-1, "-1"):
        raise InputError(f"trainer.devices={devices} means all GPUs, but there is no GPU to use: on the CPU, name a number of processes")
    several = settings["num_nodes"] > 1 or (len(devices) > 1 if isinstance(devices, list) else devices not in (1, "1"))
    if settings["sync_batchnorm"] is None:
        settings["sync_batchnorm"] = several and settings["accelerator"] != "cpu" and torch.cuda.is_available()
    if settings["strategy"] == "ddp" or (settings["strategy"] == "auto" and several):
        options["strategy"] = DDPStrategy(broadcast_buffers=False, timeout=patience)
    return build({k: v for k, v in settings.items() if k not in options}, **options)


def check_precision(cfg: DictConfig) -> None:
    """Raise `InputError` if a program that does not train is given a precision for the trainer, which has no effect."""
    require(cfg.trainer.precision == "32-true", "trainer.precision", cfg.trainer.precision, "protocol.precision=bf16 or fp16 instead")


def check_trainer(cfg: DictConfig) -> None:
    """Raise `InputError` for settings of the trainer that Lightning refuses without the key, or reads in another way than meant.

    On the command line, "no" and "off" are strings, which are true in Python.
    """
    trainer = cfg.trainer
    _check_devices(plain(trainer.devices), trainer.num_nodes)
    require(trainer.strategy in ("auto", "ddp"), "trainer.strategy", trainer.strategy, "auto or ddp")
    for key in ("enable_progress_bar", "enable_model_summary", "use_distributed_sampler"):
        require(isinstance(trainer[key], bool), f"trainer.{key}", trainer[key], "true or false")
    for key in ("sync_batchnorm", "benchmark"):
        require(trainer[key] is None or isinstance(trainer[key], bool), f"trainer.{key}", trainer[key], "true, false or null")
    deterministic = trainer.deterministic
    require(deterministic == "warn" or isinstance(deterministic, bool), "trainer.deterministic", deterministic, "true, false or warn")
    for key in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        limit = trainer[key]
        fraction = isinstance(limit, float) and 0 < limit <= 1
        expected = "a fraction such as 0.5, at least 2 batches, or null for all; 1 could be one batch or all of them"
        require(limit is None or fraction or is_count(limit, least=2), f"trainer.{key}", limit, expected)


def check_run(cfg: DictConfig) -> None:
    """Raise `InputError` for invalid settings of the trainer or the logger, an invalid seed or number of images to write."""
    check_trainer(cfg)
    offline = OmegaConf.select(cfg, "logger.offline", default=False)
    require(isinstance(offline, bool), "logger.offline", offline, "true or false")
    require(is_count(cfg.seed, least=0), "seed", cfg.seed, "a whole number, at least 0")
    require(is_count(cfg.images_to_save, least=0), "images_to_save", cfg.images_to_save, "a whole number, at least 0")


def _check_devices(devices: Any, nodes: Any) -> None:
    """Raises `InputError` for what Lightning would not take, or would only stumble over."""
    if not is_count(nodes):
        raise InputError(f"trainer.num_nodes={nodes}: give a number, at least 1")
    numbers = isinstance(devices, list) and devices and all(is_count(number, least=0) for number in devices)
    text = isinstance(devices, str) and re.fullmatch(r"auto|-1|\d+(,\d+)*,?", devices)
    if not (numbers or text or devices == -1 or is_count(devices)):
        raise InputError(f"trainer.devices={devices}: give a number of at least 1, a list such as 'trainer.devices=[0,2]', or auto for all")
