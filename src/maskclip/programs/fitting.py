"""What all training tasks share: the data, the teacher, the fit with its callbacks and logger, and the record of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.loggers import Logger

from maskclip.data.datamodule import SegmentationData
from maskclip.errors import InputError
from maskclip.files import remove_stale
from maskclip.models.maskclip import MaskCLIP
from maskclip.programs.config import Card, build, plain
from maskclip.programs.devices import build_trainer
from maskclip.programs.logs import run_logger
from maskclip.programs.resuming import check_resumable, image_list, write_image_list
from maskclip.programs.segmenting import LOCATIONS
from maskclip.tasks.callbacks import AtomicCheckpoints, Pace
from maskclip.vocabulary import Vocabulary


def build_data(cfg: DictConfig, vocabulary: Vocabulary) -> SegmentationData:
    """The data set; raises `InputError` if files of a split that will be read are missing."""
    data: SegmentationData = build(cfg.data, classes=vocabulary)
    data.dataset("train")
    for split in dict.fromkeys(("val", data.split)):
        if data.pattern("masks", split) is not None:  # without masks there is no validation
            data.dataset(split)
    return data


def build_teacher(cfg: DictConfig, vocabulary: Vocabulary) -> MaskCLIP:
    """The frozen CLIP that teaches. Raises `InputError` for a student."""
    teacher = build(cfg.teacher, classes=vocabulary)
    if not isinstance(teacher, MaskCLIP):
        raise InputError("a student cannot teach: select a CLIP, such as model@teacher=maskclip_vit16")
    return teacher


@contextmanager
def fitted(
    cfg: DictConfig, task: pl.LightningModule, data: SegmentationData, output: Path, resume: str | None, more: Sequence[pl.Callback] = ()
) -> Iterator[tuple[pl.Trainer, Logger | None]]:
    """Train a task, or resume it from a checkpoint, and yield the trainer and the logger, which is closed at the end.

    `more`: callbacks in addition to those of the config. Writes checkpoints and the names of the training images to `output`.
    Raises `InputError` if the checkpoint does not fit.
    """
    names = data.dataset("train").names
    if resume:
        check_resumable(task, resume, names)
    callbacks = [*(build(c) for c in cfg.callbacks.values() if c is not None), *more]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    write_image_list(output, names)
    with run_logger(cfg) as logger:
        trainer = build_trainer(cfg, callbacks=callbacks, logger=logger or False, plugins=[AtomicCheckpoints()])
        if trainer.is_global_zero:
            remove_stale(output / "checkpoints")
        trainer.fit(task, data, ckpt_path=resume)
        trainer.save_checkpoint(output / "checkpoints" / "last.ckpt")
        yield trainer, logger


def run_settings(cfg: DictConfig, data: SegmentationData, teacher: MaskCLIP) -> Card:
    """What affects the result of a run besides the arguments of its task: data, seed, length and teacher."""
    return {
        "data": data.name,
        "augmentation": data.augmentation,
        "corrected_images": data.corrected_images,
        "batch_size": data.batch_size,
        "seed": data.seed,
        "max_steps": cfg.trainer.max_steps,
        "images": image_list(data.dataset("train").names),
        **{key: data.files[key] for key in ("reduce_zero_label", "ignore") if key in data.files},  # the meaning of labels
        "teacher": teacher_settings(cfg, teacher),
        "pseudo_labels": {key: value for key, value in plain(cfg.pseudo_labels).items() if key != "folder"},
    }


def teacher_settings(cfg: DictConfig, teacher: MaskCLIP) -> Card:
    """The settings of the teacher that pseudo labels depend on, with fingerprints of its files."""
    fingerprints = {"weights_sha256": teacher.weights_sha256, "text_sha256": teacher.provenance.get("text_sha256")}
    return {**{key: value for key, value in plain(cfg.teacher).items() if key not in LOCATIONS}, **fingerprints}


def training_cost(trainer: pl.Trainer) -> Card:
    """The cost of a finished training for the result card: steps, seconds, images per second and peak memory in GB."""
    card: Card = {"steps": trainer.global_step, "processes": trainer.world_size, "precision": trainer.precision}
    for pace in (callback for callback in trainer.callbacks if isinstance(callback, Pace)):  # type: ignore[attr-defined]
        rate = pace.images / pace.seconds if pace.seconds else 0.0
        card |= {
            "seconds": round(pace.seconds, 2),
            "images_per_second": round(rate, 3),
            "peak_memory_gb": None if isnan(pace.peak) else round(pace.peak, 3),
        }
    return card
