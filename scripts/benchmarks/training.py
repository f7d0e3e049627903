"""Time of the parts of a guided MaskCLIP+ step, at the size of an experiment, on random weights and pixels."""

from __future__ import annotations

import logging
import statistics
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from benchmarks.timing import seconds
from maskclip.evaluation.cards import device_name
from maskclip.files import CHECKOUT
from maskclip.functional import UNLABELLED
from maskclip.inference.kernels import PRECISIONS
from maskclip.models.maskclip import MaskCLIP
from maskclip.programs.config import build, plain, words_of
from maskclip.tasks.callbacks import peak_memory
from maskclip.tasks.maskclip_plus import MaskCLIPPlus
from maskclip.vocabulary import Vocabulary

CONF = CHECKOUT / "conf"
RANDOM = ("teacher.pretrained=null", "teacher.templates=simple", "teacher.cache=null", "student.weights=null")


class Step:
    """The parts of a guided training step, in the order of `MaskCLIPPlus.training_step`."""

    def __init__(self, task: MaskCLIPPlus, teacher: MaskCLIP, image: Tensor, dtype: torch.dtype | None) -> None:
        self.task, self.teacher, self.image, self.dtype = task, teacher, image, dtype
        self.unlabelled = torch.full((len(image), *image.shape[-2:]), UNLABELLED, device=image.device)
        self.optimizer = torch.optim.SGD(task.student.parameters(), 1e-3, momentum=0.9)
        self.logits = self.labels = self.loss = torch.empty(0)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.image.device.type, self.dtype, enabled=self.dtype is not None)

    def run_teacher_tower(self) -> None:
        with torch.no_grad(), self.autocast():
            self.teacher.clip(self.image)

    def write_pseudo_labels(self) -> None:
        with self.autocast():
            self.labels = self.task.fill(self.unlabelled, self.image, torch.empty(0))

    def run_student(self) -> None:
        with self.autocast():
            self.logits = self.task.student(self.image)

    def compute_loss(self) -> None:
        with self.autocast():
            self.loss = self.task.loss(self.logits, self.labels)

    def run_backward(self) -> None:
        self.loss.backward()

    def update_weights(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def build_step(experiment: str, batch: int, precision: str, compile_student: bool, device: torch.device) -> tuple[Step, str]:
    """A step of an experiment on random weights and pixels, and a description of it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"experiment={experiment}", *RANDOM, "data.root=none"])
    words: dict[str, Any] = words_of(cfg)
    teacher = build(cfg.teacher, classes=Vocabulary(**words))
    task = build(cfg.task, classes=words, embedding_dim=teacher.embedding_dim, protocol={})
    task.attach_teacher(teacher)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    task.trainer = pl.Trainer(max_steps=10, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    task.to(device).train()
    teacher.to(device)
    if compile_student:
        task.student.network.compile()
    crop = plain(cfg.data.augmentation.crop)
    height, width = (crop, crop) if isinstance(crop, int) else crop
    torch.manual_seed(0)
    image = torch.rand(batch, 3, height, width, device=device)
    description = (
        f"{experiment}: {cfg.student.arch} on {cfg.student.encoder}, teacher {cfg.teacher.architecture}, "
        f"{batch} crops of {height}x{width}, {len(task.unlabelled)} classes"
    )
    return Step(task, teacher, image, PRECISIONS[precision]), description


def benchmark_training(experiment: str, batch: int, precision: str, compile_student: bool, device: torch.device, runs: int) -> None:
    """Print the seconds and the share of each part of a step, images per second, and the peak memory."""
    step, description = build_step(experiment, batch, precision, compile_student, device)
    parts = {
        "teacher's tower alone": step.run_teacher_tower,
        "pseudo labels, with tower": step.write_pseudo_labels,
        "student": step.run_student,
        "loss": step.compute_loss,
        "backward pass": step.run_backward,
        "optimizer": step.update_weights,
    }
    turns = [[seconds(part, device) for part in parts.values()] for _ in range(runs + 1)][1:]
    times = [statistics.median(turn) for turn in zip(*turns, strict=True)]
    total = statistics.median(sum(turn[1:]) for turn in turns)  # the tower runs again for the pseudo labels
    print(description)
    print(f"{device_name(device)}, torch {torch.__version__}, {precision}{', compiled' * compile_student}, median of {runs} steps")
    print(f"{'':<28}{'seconds':>10}{'share':>8}")
    for name, value in zip(parts, times, strict=True):
        print(f"{name:<28}{value:>10.3f}{100 * value / total:>7.1f}%")
    print(f"{'step':<28}{total:>10.3f}{100:>7.1f}%\nimages per second {batch / total:.2f}, peak memory {peak_memory(device):.2f} GB")
