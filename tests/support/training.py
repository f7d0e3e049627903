"""Small objects for tests of training: data, a task with its teacher, and a trainer on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from maskclip import MaskCLIP, Vocabulary
from maskclip.data.datamodule import SegmentationData
from maskclip.tasks.maskclip_plus import MaskCLIPPlus

NETWORK: dict[str, Any] = {"encoder": "resnet18", "weights": None, "decoder_channels": 16, "encoder_depth": 3, "decoder_aspp_dropout": 0.0}
"""Arguments of a small student without dropout."""


def make_data(root: Path, classes: Vocabulary, labels: str = "seen", **options: Any) -> SegmentationData:
    """Crops of 64 pixels of the textures data set, four in a batch."""
    return SegmentationData(
        classes,
        root=str(root),
        images="JPEGImages/%.jpg",
        masks="SegmentationClass/%.png",
        train="ImageSets/Segmentation/train.txt",
        val="ImageSets/Segmentation/val.txt",
        labels=labels,
        augmentation={"crop": 64},
        batch_size=4,
        num_workers=0,
        **options,
    )


def make_task(teacher: MaskCLIP, labels: str = "seen", **options: Any) -> MaskCLIPPlus:
    """A task with a small student, always with the same weights."""
    torch.manual_seed(0)
    vocabulary = teacher.vocabulary
    classes = {"names": list(vocabulary.names), "prompts": dict(vocabulary.prompts), "unseen": list(vocabulary.unseen)}
    task = MaskCLIPPlus(classes, teacher.embedding_dim, NETWORK, labels, {}, provenance={"method": "test"}, **options)
    task.attach_teacher(teacher)
    return task


def make_trainer(folder: Path, steps: int, progress: bool = False, **options: Any) -> pl.Trainer:
    """A trainer that neither validates nor logs."""
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=1000,
        default_root_dir=folder,
        **options,
    )


class PhaseRecorder(pl.Callback):
    """Records the step and whether it is guided, for each training batch."""

    def __init__(self) -> None:
        self.phases: list[tuple[int, bool]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, MaskCLIPPlus)
        self.phases.append((trainer.global_step, pl_module.is_guided))
