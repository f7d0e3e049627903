"""Devices and processes: the Lightning trainer of training and evaluation, and the Fabric of segmenting."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning_fabric as fabric
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.strategies import DDPStrategy

from maskclip.errors import InputError
from maskclip.programs import ranks
from maskclip.programs.checks import check_trainer
from maskclip.programs.config import build, plain


def build_trainer(cfg: DictConfig, **options: Any) -> pl.Trainer:
    """The trainer of a config; `options` replace its settings.

    If `sync_batchnorm` is null, batch statistics are synchronised in runs on several GPUs.
    Buffers are not broadcast before each forward pass: in validation one process may have an image more than another and
    would wait forever. The tasks share buffers explicitly.
    """
    settings = _checked(cfg)
    options["callbacks"] = [*options.get("callbacks", ()), ranks.EndTogether()]
    if settings["sync_batchnorm"] is None:
        settings["sync_batchnorm"] = _is_distributed(settings) and settings["accelerator"] != "cpu" and torch.cuda.is_available()
    if _uses_ddp(settings):
        options["strategy"] = DDPStrategy(broadcast_buffers=False)
    return build({k: v for k, v in settings.items() if k not in options}, **options)


def launch(cfg: DictConfig, patience: timedelta) -> fabric.Fabric:
    """Start the processes of a config; each waits up to `patience` for the others. Raises `InputError` for missing devices.

    As in Lightning's trainer, `benchmark` and `deterministic` are set for the whole process.
    """
    settings = _checked(cfg)
    if settings["benchmark"] is not None:
        torch.backends.cudnn.benchmark = settings["benchmark"]
    torch.use_deterministic_algorithms(bool(settings["deterministic"]), warn_only=settings["deterministic"] == "warn")
    strategy = fabric.strategies.DDPStrategy(timeout=patience) if _uses_ddp(settings) else "auto"
    options = {key: settings[key] for key in ("accelerator", "devices", "num_nodes")}
    try:
        processes = fabric.Fabric(strategy=strategy, **options)
    except RuntimeError as cause:  # such as no GPU
        raise InputError(f"{', '.join(f'trainer.{key}={value}' for key, value in options.items())}: {cause}") from cause
    processes.launch()
    ranks.watch(processes.strategy.launcher)
    return processes


def _checked(cfg: DictConfig) -> dict[str, Any]:
    """The settings of the trainer. Raises `InputError` for invalid ones, and for all GPUs (-1) of a machine without any."""
    check_trainer(cfg)
    settings: dict[str, Any] = plain(cfg.trainer)
    devices, accelerator = settings["devices"], settings["accelerator"]
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if on_cpu and devices in (-1, "-1"):
        raise InputError(f"trainer.devices={devices} means all GPUs, but there is no GPU: on the CPU, give a number of processes")
    return settings


def _uses_ddp(settings: Mapping[str, Any]) -> bool:
    return settings["strategy"] == "ddp" or (settings["strategy"] == "auto" and _is_distributed(settings))


def _is_distributed(settings: Mapping[str, Any]) -> bool:
    """Whether the settings of a trainer ask for more than one process."""
    devices = settings["devices"]
    return settings["num_nodes"] > 1 or (len(devices) > 1 if isinstance(devices, list) else devices not in (1, "1"))
