"""`src/train.py` with `task=any_resolution`: fine-tune a CLIP for large images, write it to a folder and evaluate it."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from maskclip.clip.finetuning import WEIGHTS, save_clip, vit_of
from maskclip.clip.loading import load_clip
from maskclip.data.datamodule import SegmentationData
from maskclip.errors import Check, check_settings, require
from maskclip.files import quoted
from maskclip.programs.config import Card, build, plain, words_of
from maskclip.programs.evaluating import evaluate_model, report
from maskclip.programs.fitting import build_data, build_teacher, fitted, run_settings, training_cost
from maskclip.programs.logs import log_scores
from maskclip.programs.resuming import checkpoint_to_resume
from maskclip.tasks.any_resolution import AnyResolution
from maskclip.vocabulary import Vocabulary

TEACHER: dict[str, Check] = {
    "pretrained": (lambda value: value is not None, "a pretrained tag of open_clip or a file: random weights have nothing to teach"),
    "text_embeddings": (lambda value: value is None, "null: the result contains the text tower"),
}
DATA: dict[str, Check] = {
    "labels": (lambda value: value == "none", "none: the task reads no labels"),
    "truth": (lambda value: value is False, "false: the task reads no labels"),
}


def fine_tune(cfg: DictConfig, output: Path) -> float | None:
    """Fine-tune a CLIP so that one forward pass replaces windows, and write it to `output`/clip.

    With masks, evaluates it and returns the mIoU in percent.
    """
    check_settings(plain(cfg.data), DATA, "data.")
    require(not cfg.compile, "compile", cfg.compile, "false: torch.compile would compile the tower again for every size of crops")
    vocabulary, weights = Vocabulary(**words_of(cfg)), output / "clip" / WEIGHTS
    data = build_data(cfg, vocabulary)
    resume = checkpoint_to_resume(cfg.resume)
    teacher = build_teacher(cfg, vocabulary)
    check_settings(plain(cfg.teacher), TEACHER, "teacher.")
    task: AnyResolution = build(cfg.task, run=run_settings(cfg, data, teacher))
    task.attach_teacher(teacher.clip)
    check_crops(data, task)
    with fitted(cfg, task, data, output, resume) as (trainer, logger):
        if trainer.is_global_zero:
            write_clip(cfg, task, output / "clip")
        trainer.strategy.barrier()
        card: Card | None = None
        if data.pattern("masks", data.split) is not None:
            model = build(cfg.teacher, classes=vocabulary, pretrained=str(weights))
            card = evaluate_model(cfg, model, data, output, method=cfg.method, training=training_cost(trainer))
            log_scores(logger, card, trainer.global_step)
    if card is not None:
        report(card, output)
    rank_zero_only(print)(f"To use the fine-tuned CLIP, in one forward pass over each image:\n  {command(weights)}")
    return None if card is None else card["miou"]


def check_crops(data: SegmentationData, task: AnyResolution) -> None:
    """Raise `InputError` if the crops of the data are smaller than the largest that the task may ask for."""
    crop, most = data.augmentation["crop"], task.hparams["sizes"][1]
    smallest = crop if isinstance(crop, int) else min(crop)
    require(smallest >= most, "data.augmentation.crop", crop, f"at least the largest of task.sizes, {most} pixels")


def write_clip(cfg: DictConfig, task: AnyResolution, folder: Path) -> None:
    """Write the teacher's CLIP with the fine-tuned image tower to a folder."""
    model = load_clip(cfg.teacher.architecture, cfg.teacher.pretrained)
    model.visual.load_state_dict(vit_of(task.student).tower.state_dict())
    save_clip(folder, model, cfg.teacher.architecture)


def command(weights: Path) -> str:
    """A command that segments images with the fine-tuned CLIP."""
    model = f"model={HydraConfig.get().runtime.choices['model@teacher']}"
    return " ".join(["python src/segment.py", model, f"model.pretrained={quoted(weights)}", "input=photos/ protocol.short_side=1024"])
