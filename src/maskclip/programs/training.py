"""`src/train.py` and `src/export.py`: a student, from its labels to a folder of its own."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.utilities import rank_zero_only

from maskclip.data.datamodule import SegmentationData
from maskclip.errors import InputError, is_count, is_number, require
from maskclip.files import quoted, remove_stale
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.student import Student, load_student
from maskclip.programs.common import build_trainer, check_run
from maskclip.programs.config import Card, build, plain, words_of
from maskclip.programs.evaluating import evaluate_model, report
from maskclip.programs.logs import log_scores, run_logger
from maskclip.programs.resuming import check_resumable, checkpoint_to_resume, image_list, write_image_list
from maskclip.tasks.callbacks import AtomicCheckpoints, Pace
from maskclip.vocabulary import Vocabulary


def train(cfg: DictConfig) -> float | None:
    """`src/train.py`: train a student, evaluate it, print the table, write the card.

    Returns the mIoU in percent; None where there are no masks to score with.
    """
    check_training(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    output = Path(cfg.paths.output)
    card, _ = train_student(cfg, output)
    if card is None:
        checkpoint = quoted(output / "checkpoints" / "last.ckpt")
        rank_zero_only(print)(
            "No masks, so nothing is scored. To use the student:\n"
            f"  python src/segment.py model=student model.checkpoint={checkpoint} input=photos/"
        )
        return None
    report(card, output)
    return card["miou"]


def check_training(cfg: DictConfig) -> None:
    """Raise `InputError` for settings of a training run that are invalid or would have no effect."""
    check_run(cfg)
    require(isinstance(cfg.compile, bool), "compile", cfg.compile, "true or false")
    trainer, endless = (
        cfg.trainer,
        "training data are an endless stream without epochs: set trainer.max_steps and trainer.val_check_interval",
    )
    clip = trainer.gradient_clip_val
    for key, valid, expected in (
        ("max_steps", is_count(trainer.max_steps), "how many steps to train; the learning rate and the phases depend on it"),
        ("precision", trainer.precision in ("32-true", "bf16-mixed", "16-mixed"), "32-true, bf16-mixed or 16-mixed"),
        ("max_epochs", trainer.max_epochs in (-1, None), f"-1 ({endless})"),
        ("check_val_every_n_epoch", trainer.check_val_every_n_epoch is None, f"null ({endless})"),
        ("accumulate_grad_batches", is_count(trainer.accumulate_grad_batches), "a whole number, at least 1"),
        ("log_every_n_steps", is_count(trainer.log_every_n_steps), "a whole number, at least 1"),
        ("val_check_interval", is_count(trainer.val_check_interval), "a number of batches, at least 1"),
        ("gradient_clip_val", clip is None or (is_number(clip) and clip > 0), "a number above 0, or null"),
    ):
        require(valid, f"trainer.{key}", trainer[key], expected)
    for name, callback in cfg.callbacks.items():
        for key in ("enable_version_counter", "save_on_train_epoch_end"):  # of ModelCheckpoint
            if callback is not None and callback.get(key) is not None:
                require(isinstance(callback[key], bool), f"callbacks.{name}.{key}", callback[key], "true or false")


def train_student(cfg: DictConfig, output: Path) -> tuple[Card | None, Student]:
    """The card of a student trained on the labels of its teacher, and the student; checkpoints go to `output`.

    The card is None where the data have no masks to score with.
    """
    words = words_of(cfg)
    vocabulary = Vocabulary(**words)
    data: SegmentationData = build(cfg.data, classes=vocabulary)
    names = data.dataset("train").names
    for split in dict.fromkeys(("val", data.split)):
        if data.pattern("masks", split) is not None:  # else there is nothing to score
            data.dataset(split)
    resume = checkpoint_to_resume(cfg.resume)
    teacher = build(cfg.teacher, classes=vocabulary)
    if not isinstance(teacher, MaskCLIP):
        raise InputError("a student cannot teach: select a CLIP, such as model@teacher=maskclip_vit16")
    task = build(
        cfg.task,
        classes=words,
        embedding_dim=teacher.embedding_dim,
        protocol=plain({k: v for k, v in cfg.protocol.items() if k != "_target_"}),
        run={
            "data": data.name,
            "augmentation": data.augmentation,
            "batch_size": data.batch_size,
            "seed": data.seed,
            "max_steps": cfg.trainer.max_steps,
            "images": image_list(names),
            **{key: data.files[key] for key in ("reduce_zero_label", "ignore") if key in data.files},  # what labels mean
            "teacher": teacher_settings(cfg, teacher),
        },
        provenance={"method": cfg.method, "labels": data.labels, "teacher": {"method": teacher.method, **teacher.provenance}},
    )
    task.attach_teacher(teacher)
    if cfg.compile:
        task.student.network.compile()  # in place: checkpoints keep their names
    if resume:
        check_resumable(task, resume, names)
    callbacks = [build(c) for c in cfg.callbacks.values() if c is not None]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    write_image_list(output, names)
    with run_logger(cfg) as logger:
        trainer = build_trainer(cfg, callbacks=callbacks, logger=logger or False, plugins=[AtomicCheckpoints()])
        if trainer.is_global_zero:
            remove_stale(output / "checkpoints")
        trainer.fit(task, data, ckpt_path=resume)
        trainer.save_checkpoint(output / "checkpoints" / "last.ckpt")
        student = task.student.eval()
        if data.pattern("masks", data.split) is None:
            return None, student
        card = evaluate_model(cfg, student, data, output, training=account(trainer))
        log_scores(logger, card, trainer.global_step)
        return card, student


def teacher_settings(cfg: DictConfig, teacher: Any) -> Card:
    """The settings of the teacher on which pseudo labels depend, with fingerprints for the files it was read from."""
    places = ("_target_", "pretrained", "text_embeddings", "cache")
    prints = {"weights_sha256": teacher.weights_sha256, "text_sha256": teacher.provenance.get("text_sha256")}
    return {**{key: value for key, value in plain(cfg.teacher).items() if key not in places}, **prints}


def account(trainer: pl.Trainer) -> Card:
    """What a finished training took: optimiser steps, images a second and the peak of memory, for the result card."""
    card: Card = {"steps": trainer.global_step, "processes": trainer.world_size, "precision": trainer.precision}
    for pace in (callback for callback in trainer.callbacks if isinstance(callback, Pace)):  # type: ignore[attr-defined]
        rate = pace.images / pace.seconds if pace.seconds else 0.0
        card |= {
            "seconds": round(pace.seconds, 2),
            "images_per_second": round(rate, 3),
            "peak_memory_gb": None if isnan(pace.peak) else round(pace.peak, 3),
        }
    return card


def export(cfg: DictConfig) -> None:
    """`src/export.py`: a trained student as a folder that needs neither Hydra nor Lightning nor CLIP."""
    student = load_student(cfg.checkpoint)
    student.save(cfg.output)
    size = sum(path.stat().st_size for path in Path(cfg.output).iterdir()) / 1e6
    print(f"{student.method}, {len(student.vocabulary)} classes, {size:.1f} MB: {cfg.output}")
