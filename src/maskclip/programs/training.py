"""`src/train.py` and `src/export.py`: run a training task, and write a student to a folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.utils import get_class
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from maskclip.data.datamodule import SegmentationData
from maskclip.files import quoted
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.recomputing import recompute_blocks
from maskclip.models.student import Student, load_student
from maskclip.programs.any_resolution import fine_tune
from maskclip.programs.checks import check_training
from maskclip.programs.config import Card, build, plain, words_of
from maskclip.programs.evaluating import evaluate_model, report
from maskclip.programs.fitting import build_data, build_teacher, fitted, run_settings, training_cost
from maskclip.programs.logs import log_scores
from maskclip.programs.resuming import checkpoint_to_resume
from maskclip.programs.segmenting import list_todo, settings_of
from maskclip.segmenting.inputs import InputImage
from maskclip.segmenting.outputs import Outputs
from maskclip.tasks.any_resolution import AnyResolution
from maskclip.tasks.maskclip_plus import MaskCLIPPlus
from maskclip.vocabulary import Vocabulary


def train(cfg: DictConfig) -> float | None:
    """`src/train.py`: run a task, evaluate its result, print a table and write the result card.

    Returns the mIoU in percent, or None without masks.
    """
    check_training(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    output = Path(cfg.paths.output)
    if issubclass(get_class(cfg.task._target_), AnyResolution):
        return fine_tune(cfg, output)
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
    resume = checkpoint_to_resume(cfg.resume)
    teacher = build_teacher(cfg, vocabulary)
    task = build_task(cfg, words, data, teacher)
    labelling = build(cfg.pseudo_labels).prepare(data, teacher, partial(list_unlabelled, cfg, teacher))
    with fitted(cfg, task, data, output, resume, labelling) as (trainer, logger):
        student = task.student.eval()
        if data.pattern("masks", data.split) is None:
            return None, student
        card = evaluate_model(cfg, student, data, output, training=training_cost(trainer))
        log_scores(logger, card, trainer.global_step)
        return card, student


def list_unlabelled(cfg: DictConfig, teacher: MaskCLIP, outputs: Outputs, images: list[InputImage]) -> list[InputImage]:
    """The images that the teacher has not labelled yet under the protocol of `pseudo_labels`; makes the folder of labels ready."""
    settings = settings_of(cfg.teacher, teacher, build(cfg.pseudo_labels.protocol), outputs)
    settings["data.labels"] = cfg.data.labels
    return list_todo(outputs, images, settings, overwrite=False, remedy="use another folder (pseudo_labels.folder), or delete this one")


def build_task(cfg: DictConfig, words: Card, data: SegmentationData, teacher: MaskCLIP) -> MaskCLIPPlus:
    """The task with its teacher."""
    run = run_settings(cfg, data, teacher)
    provenance = {
        "method": cfg.method,
        "labels": data.labels,
        "corrected_images": run["corrected_images"],
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


def export(cfg: DictConfig) -> None:
    """`src/export.py`: write a trained student to a folder that needs neither Hydra nor Lightning nor CLIP."""
    student = load_student(cfg.checkpoint)
    student.save(cfg.output)
    size = sum(path.stat().st_size for path in Path(cfg.output).iterdir()) / 1e6
    print(f"wrote {student.method} with {len(student.vocabulary)} classes ({size:.1f} MB) to {cfg.output}")
