"""Valid settings of the trainer and of whole runs, as tables of key, predicate and expected value.

YAML reads "no" and "off" on the command line as strings, which are true in Python, and Lightning's own errors do not name
the config key.
"""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from maskclip.errors import BOOLEAN, COUNT, Check, check_settings, is_boolean, is_count, is_number, one_of, optional, require
from maskclip.programs.config import plain

ENDLESS = "training data are an endless stream without epochs: set trainer.max_steps and trainer.val_check_interval"


def is_devices(value: Any) -> bool:
    """Whether Lightning accepts the value as `devices`: a count, a list of indices, "0,2", -1 or "auto"."""
    if isinstance(value, list):
        return bool(value) and all(is_count(index, least=0) for index in value)
    return value == -1 or is_count(value) or (isinstance(value, str) and re.fullmatch(r"auto|-1|\d+(,\d+)*,?", value) is not None)


def is_limit(value: Any) -> bool:
    """Whether a value is a fraction from above 0 to 1.0 or a number of at least 2 batches."""
    return (isinstance(value, float) and 0 < value <= 1) or is_count(value, least=2)


LIMIT: Check = (
    optional(is_limit),
    "a fraction such as 0.5, at least 2 batches, or null for all; 1 could be one batch or all of them",
)
BOOLEAN_OR_NULL: Check = (optional(is_boolean), "true, false or null")
TRAINER: dict[str, Check] = {
    "num_nodes": COUNT,
    "devices": (is_devices, "a number of at least 1, a list such as 'trainer.devices=[0,2]', or auto for all"),
    "strategy": one_of("auto", "ddp"),
    "enable_progress_bar": BOOLEAN,
    "enable_model_summary": BOOLEAN,
    "use_distributed_sampler": BOOLEAN,
    "sync_batchnorm": BOOLEAN_OR_NULL,
    "benchmark": BOOLEAN_OR_NULL,
    "deterministic": (lambda value: value == "warn" or is_boolean(value), "true, false or warn"),
    "limit_train_batches": LIMIT,
    "limit_val_batches": LIMIT,
    "limit_test_batches": LIMIT,
}
TRAINING: dict[str, Check] = {
    "max_steps": (is_count, "the number of steps to train; the learning rate and the phases depend on it"),
    "precision": one_of("32-true", "bf16-mixed", "16-mixed"),
    "max_epochs": (lambda value: value in (-1, None), f"-1 ({ENDLESS})"),
    "check_val_every_n_epoch": (lambda value: value is None, f"null ({ENDLESS})"),
    "accumulate_grad_batches": COUNT,
    "log_every_n_steps": COUNT,
    "val_check_interval": (is_count, "a number of batches, at least 1"),
    "gradient_clip_val": (optional(lambda value: is_number(value) and value > 0), "a number above 0, or null"),
}
CHECKPOINTS: dict[str, Check] = {"enable_version_counter": BOOLEAN_OR_NULL, "save_on_train_epoch_end": BOOLEAN_OR_NULL}


def check_trainer(cfg: DictConfig) -> None:
    """Raise `InputError` for settings of the trainer that are invalid in every program."""
    check_settings({key: plain(cfg.trainer[key]) for key in TRAINER}, TRAINER, "trainer.")


def check_precision(cfg: DictConfig) -> None:
    """Raise `InputError` if `trainer.precision`, which applies to training only, is set in another program."""
    require(cfg.trainer.precision == "32-true", "trainer.precision", cfg.trainer.precision, "protocol.precision=bf16 or fp16 instead")


def check_run(cfg: DictConfig) -> None:
    """Raise `InputError` for an invalid setting of the trainer or the logger, or an invalid seed or number of images to write."""
    check_trainer(cfg)
    offline = OmegaConf.select(cfg, "logger.offline", default=False)
    require(is_boolean(offline), "logger.offline", offline, "true or false")
    require(is_count(cfg.seed, least=0), "seed", cfg.seed, "a whole number, at least 0")
    require(is_count(cfg.images_to_save, least=0), "images_to_save", cfg.images_to_save, "a whole number, at least 0")


def check_training(cfg: DictConfig) -> None:
    """Raise `InputError` for settings of a training run that are invalid or would have no effect."""
    check_run(cfg)
    for key in ("channels_last", "recompute", "compile"):
        require(is_boolean(cfg[key]), key, cfg[key], "true or false")
    check_settings({key: cfg.trainer[key] for key in TRAINING}, TRAINING, "trainer.")
    for name, callback in cfg.callbacks.items():
        if callback is not None:
            check_settings({key: callback.get(key) for key in CHECKPOINTS}, CHECKPOINTS, f"callbacks.{name}.")
