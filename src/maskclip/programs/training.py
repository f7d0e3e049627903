"""`src/train.py` and `src/export.py`: a student, from its labels to a folder of its own."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.utilities import rank_zero_only

from maskclip.callbacks import AtomicCheckpoints, Pace
from maskclip.data.datamodule import SegmentationData
from maskclip.errors import InputError
from maskclip.models.student import Student, load_student
from maskclip.programs.common import Card, build, build_trainer, plain, words_of
from maskclip.programs.evaluating import evaluate_model, report
from maskclip.programs.logs import log_scores, run_logger
from maskclip.protocol import Protocol
from maskclip.vocabulary import Vocabulary


def train(cfg: DictConfig) -> float | None:
    """`src/train.py`: train a student, evaluate it, print the table, write the card.

    Returns the mIoU in percent; None where there are no masks to score with.
    """
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    output = Path(cfg.paths.output)
    card, _ = train_student(cfg, output)
    if card is None:
        checkpoint = output / "checkpoints" / "last.ckpt"
        rank_zero_only(print)(
            f"No masks, so nothing is scored. To use the student:\n  python src/segment.py model=student model.checkpoint={checkpoint} "
            "input=photos/"
        )
        return None
    report(card, output)
    return card["miou"]


def train_student(cfg: DictConfig, output: Path) -> tuple[Card | None, Student]:
    """The card of a student trained on the labels of its teacher, and the student; checkpoints go to `output`.

    The card is None where the data have no masks to score with.
    """
    words = words_of(cfg)
    vocabulary = Vocabulary(**words)
    data: SegmentationData = build(cfg.data, classes=vocabulary)
    for split in dict.fromkeys(("train", "val", data.split)):
        data.dataset(split)
    resume = checkpoint_to_resume(cfg.resume)
    teacher = build(cfg.teacher, classes=vocabulary)
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
        },
        provenance={"method": cfg.method, "labels": data.labels, "teacher": {"method": teacher.method, **teacher.provenance}},
    )
    task.attach_teacher(teacher)
    if cfg.compile:
        task.student.network.compile()  # in place: checkpoints keep their names
    if resume:
        check_resumable(task, resume)
    callbacks = [build(c) for c in cfg.callbacks.values() if c is not None]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    with run_logger(cfg) as logger:
        trainer = build_trainer(cfg, callbacks=callbacks, logger=logger or False, plugins=[AtomicCheckpoints()])
        trainer.fit(task, data, ckpt_path=resume)
        trainer.save_checkpoint(output / "checkpoints" / "last.ckpt")
        student = task.student.eval()
        if data.pattern("masks", data.split) is None:
            return None, student
        card = evaluate_model(cfg, student, data, output, training=account(trainer))
        log_scores(logger, card, trainer.global_step)
        return card, student


def account(trainer: pl.Trainer) -> Card:
    """What a finished training took: optimiser steps, images a second and the peak of memory, for the result card."""
    card: Card = {"steps": trainer.global_step, "processes": trainer.world_size, "precision": trainer.precision}
    for pace in (callback for callback in trainer.callbacks if isinstance(callback, Pace)):  # type: ignore[attr-defined]
        rate = pace.images / pace.seconds if pace.seconds else 0.0
        card |= {"seconds": round(pace.seconds, 2), "images_per_second": round(rate, 3), "peak_memory_gb": round(pace.peak, 3)}
    return card


def checkpoint_to_resume(resume: str | None) -> str | None:
    """The checkpoint of a run folder or the file itself."""
    if resume is None:
        return None
    path = Path(resume)
    path = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"nothing to resume: no checkpoint {path} (resume)")
    return str(path)


def check_resumable(task: pl.LightningModule, checkpoint: str) -> None:
    """Raise `InputError` if the checkpoint is of another student, other classes, other draws or another schedule."""
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)["hyper_parameters"]
    except Exception as cause:
        raise InputError(f"{checkpoint} is not a checkpoint of src/train.py ({type(cause).__name__})") from cause
    mine = dict(task.hparams)
    defaults = {name: parameter.default for name, parameter in signature(type(task)).parameters.items()}  # of keys that came later
    differ = [key for key, value in mine.items() if key not in ("provenance", "protocol") and stored.get(key, defaults[key]) != value]
    before = Protocol(**stored.get("protocol", {}))  # older checkpoints have fewer fields
    changed = before.differences(Protocol(**mine["protocol"]))
    differ += [f"protocol.{name} was {old}, is {new}" for name, (old, new) in changed.items()]
    if differ:
        raise InputError(
            f"{checkpoint} was trained with other settings ({', '.join(differ)}); "
            "resume with the experiment and overrides of the run that wrote it"
        )


def export(cfg: DictConfig) -> None:
    """`src/export.py`: a trained student as a folder that needs neither Hydra nor Lightning nor CLIP."""
    student = load_student(cfg.checkpoint)
    student.save(cfg.output)
    size = sum(path.stat().st_size for path in Path(cfg.output).iterdir()) / 1e6
    print(f"{student.method}, {len(student.vocabulary)} classes, {size:.1f} MB: {cfg.output}")
