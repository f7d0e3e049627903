"""`src/train.py` and `src/export.py`: train a student, and write it to a folder."""

from __future__ import annotations

from functools import partial
from math import isnan
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.utilities import rank_zero_only

from maskclip.data.datamodule import SegmentationData
from maskclip.errors import InputError
from maskclip.files import quoted, remove_stale
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.recomputing import recompute_blocks
from maskclip.models.student import Student, load_student
from maskclip.programs.checks import check_training
from maskclip.programs.config import Card, build, plain, words_of
from maskclip.programs.devices import build_trainer
from maskclip.programs.evaluating import evaluate_model, report
from maskclip.programs.logs import log_scores, run_logger
from maskclip.programs.resuming import check_resumable, checkpoint_to_resume, image_list, write_image_list
from maskclip.programs.segmenting import list_todo, settings_of
from maskclip.segmenting.inputs import InputImage
from maskclip.segmenting.outputs import Outputs
from maskclip.tasks.callbacks import AtomicCheckpoints, Pace
from maskclip.tasks.maskclip_plus import MaskCLIPPlus
from maskclip.vocabulary import Vocabulary


def train(cfg: DictConfig) -> float | None:
    """`src/train.py`: train a student, evaluate it, print a table and write the result card.

    Returns the mIoU in percent, or None without masks.
    """
    check_training(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    output = Path(cfg.paths.output)
    card, _ = train_student(cfg, output)
    if card is None:
        checkpoint = quoted(output / "checkpoints" / "last.ckpt")
        rank_zero_only(print)(
            "There are no masks, so the student was not evaluated. To use it:\n"
            f"  python src/segment.py model=student model.checkpoint={checkpoint} input=photos/"
        )
        return None
    report(card, output)
    return card["miou"]


def train_student(cfg: DictConfig, output: Path) -> tuple[Card | None, Student]:
    """Train a student; returns its result card, or None if the data set has no masks, and the student.

    Writes checkpoints and the names of the training images to `output`.
    """
    words = words_of(cfg)
    vocabulary = Vocabulary(**words)
    data = build_data(cfg, vocabulary)
    names = data.dataset("train").names
    resume = checkpoint_to_resume(cfg.resume)
    teacher = build(cfg.teacher, classes=vocabulary)
    if not isinstance(teacher, MaskCLIP):
        raise InputError("a student cannot teach: select a CLIP, such as model@teacher=maskclip_vit16")
    task = build_task(cfg, words, data, names, teacher)
    if resume:
        check_resumable(task, resume, names)
    callbacks = [build(c) for c in cfg.callbacks.values() if c is not None]
    callbacks += build(cfg.pseudo_labels).prepare(data, teacher, partial(list_unlabelled, cfg, teacher))
    if not cfg.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    write_image_list(output, names)
    with run_logger(cfg) as logger:
        trainer = build_trainer(cfg, callbacks=callbacks, logger=logger or False, plugins=[AtomicCheckpoints()])
        if trainer.is_global_zero:
            remove_stale(output / "checkpoints")
        trainer.fit(task, data, ckpt_path=resume)
        trainer.save_checkpoint(output / "checkpoints" / "last.ckpt")
        student = task.trained_student.eval()
        if data.pattern("masks", data.split) is None:
            return None, student
        card = evaluate_model(cfg, student, data, output, training=training_cost(trainer))
        log_scores(logger, card, trainer.global_step)
        return card, student


def list_unlabelled(cfg: DictConfig, teacher: MaskCLIP, outputs: Outputs, images: list[InputImage]) -> list[InputImage]:
    """The images that the teacher has not labelled yet under the protocol of `pseudo_labels`; makes the folder of labels ready."""
    settings = settings_of(cfg.teacher, teacher, build(cfg.pseudo_labels.protocol), outputs)
    return list_todo(outputs, images, settings | {"data.labels": cfg.data.labels}, overwrite=False)


def build_data(cfg: DictConfig, vocabulary: Vocabulary) -> SegmentationData:
    """The data set; raises `InputError` if files of a split that will be read are missing."""
    data: SegmentationData = build(cfg.data, classes=vocabulary)
    data.dataset("train")
    for split in dict.fromkeys(("val", data.split)):
        if data.pattern("masks", split) is not None:  # without masks there is no validation
            data.dataset(split)
    return data


def build_task(cfg: DictConfig, words: Card, data: SegmentationData, names: list[str], teacher: MaskCLIP) -> MaskCLIPPlus:
    """The task with its teacher; `names` are the training images."""
    run: Card = {
        "data": data.name,
        "augmentation": data.augmentation,
        "strong_view": data.strong_view,
        "corrected_images": data.corrected_images,
        "batch_size": data.batch_size,
        "seed": data.seed,
        "max_steps": cfg.trainer.max_steps,
        "images": image_list(names),
        **{key: data.files[key] for key in ("reduce_zero_label", "ignore") if key in data.files},  # the meaning of labels
        "teacher": teacher_settings(cfg, teacher),
        "pseudo_labels": {key: value for key, value in plain(cfg.pseudo_labels).items() if key != "folder"},
    }
    provenance = {
        "method": cfg.method,
        "labels": data.labels,
        "corrected_images": data.corrected_images,
        "pseudo_labels": str(cfg.pseudo_labels._target_).rpartition(".")[2],
        "teacher": {"method": teacher.method, **teacher.provenance},
    }
    protocol: Card = {key: value for key, value in plain(cfg.protocol).items() if key != "_target_"}
    options = {"classes": words, "embedding_dim": teacher.embedding_dim, "protocol": protocol, "run": run, "provenance": provenance}
    task: MaskCLIPPlus = build(cfg.task, **options)
    task.attach_teacher(teacher)
    if cfg.recompute:
        recompute_blocks(task.student.network)
    if cfg.channels_last:
        task.to(memory_format=torch.channels_last)
    if cfg.compile:
        task.student.network.compile()  # in place: checkpoints keep their names
    return task


def teacher_settings(cfg: DictConfig, teacher: MaskCLIP) -> Card:
    """The settings of the teacher that pseudo labels depend on, with fingerprints of its files."""
    locations = ("_target_", "pretrained", "text_embeddings", "cache")
    fingerprints = {"weights_sha256": teacher.weights_sha256, "text_sha256": teacher.provenance.get("text_sha256")}
    return {**{key: value for key, value in plain(cfg.teacher).items() if key not in locations}, **fingerprints}


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


def export(cfg: DictConfig) -> None:
    """`src/export.py`: write a trained student to a folder that needs neither Hydra nor Lightning nor CLIP."""
    student = load_student(cfg.checkpoint)
    student.save(cfg.output)
    size = sum(path.stat().st_size for path in Path(cfg.output).iterdir()) / 1e6
    print(f"wrote {student.method} with {len(student.vocabulary)} classes ({size:.1f} MB) to {cfg.output}")
