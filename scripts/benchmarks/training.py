"""Time and memory of a guided MaskCLIP+ step, at the size of an experiment, on random weights and pixels."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from benchmarks.timing import reset_peak, seconds
from maskclip.evaluation.cards import device_name
from maskclip.files import CHECKOUT
from maskclip.functional import UNLABELLED, mean_over_pixels, upsample_logits
from maskclip.inference.kernels import PRECISIONS
from maskclip.models.depthwise import DilatedDepthwise
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.recomputing import Recomputing, recompute_blocks
from maskclip.programs.config import build, plain, words_of
from maskclip.tasks.callbacks import peak_memory
from maskclip.tasks.maskclip_plus import MaskCLIPPlus
from maskclip.vocabulary import Vocabulary

CONF = CHECKOUT / "conf"
RANDOM = ("teacher.pretrained=null", "teacher.templates=simple", "teacher.cache=null", "student.weights=null")


@dataclass(frozen=True)
class Variant:
    """Which implementations a step uses: memory layout, dilated depthwise convolutions, loss, and recomputed blocks."""

    channels_last: bool = False
    depthwise: bool = False
    loss: bool = False
    recompute: bool = False

    def replaced(self) -> ExitStack:
        """Context in which the network uses torch's implementations where this variant does."""
        stack = ExitStack()
        for ours, own, torchs in ((self.depthwise, DilatedDepthwise, nn.Conv2d), (self.recompute, Recomputing, nn.Sequential)):
            if not ours:
                stack.enter_context(patch.object(own, "forward", torchs.forward))
        return stack


VARIANTS = {
    "plain": Variant(),
    "channels last": Variant(channels_last=True),
    "depthwise convolutions": Variant(depthwise=True),
    "loss in bands": Variant(loss=True),
    "all": Variant(channels_last=True, depthwise=True, loss=True),
    "all, recompute=true": Variant(channels_last=True, depthwise=True, loss=True, recompute=True),
}


class Step:
    """The parts of a guided training step, in the order of `MaskCLIPPlus.training_step`."""

    def __init__(self, task: MaskCLIPPlus, teacher: MaskCLIP, image: Tensor) -> None:
        self.task, self.teacher, self.image = task, teacher, image
        self.dtype: torch.dtype | None = None
        self.variant = Variant()
        self.unlabelled = torch.full((len(image), *image.shape[-2:]), UNLABELLED, device=image.device)
        self.optimizer = torch.optim.SGD(task.student.parameters(), 1e-3, momentum=0.9)
        self.logits = self.labels = self.loss = torch.empty(0)

    def use(self, variant: Variant, dtype: torch.dtype | None) -> None:
        """Run the following steps as `variant`, with autocast to `dtype`."""
        self.variant, self.dtype = variant, dtype
        self.task.student.to(memory_format=torch.channels_last if variant.channels_last else torch.contiguous_format)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.image.device.type, self.dtype, enabled=self.dtype is not None)

    def write_pseudo_labels(self) -> None:
        with self.autocast():
            self.labels = self.task.fill(self.unlabelled, self.image, torch.empty(0))

    def run_student(self) -> None:
        with self.autocast(), self.variant.replaced():
            self.logits = self.task.student(self.image)

    def compute_loss(self) -> None:
        with self.autocast():
            self.loss = self.task.loss(self.logits, self.labels) if self.variant.loss else self.plain_loss()

    def plain_loss(self) -> Tensor:
        """The loss from logits of all classes at the size of the crops."""
        size = (self.image.shape[2], self.image.shape[3])
        logits = upsample_logits(self.logits, self.task.student.covered_size(*size), size)
        ignored = self.task.student.vocabulary.ignore_index
        total = F.cross_entropy(logits, self.labels, ignore_index=ignored, reduction="sum")
        return mean_over_pixels(total, self.labels, ignored)

    def run_backward(self) -> None:
        self.loss.backward()

    def update_weights(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def build_step(experiment: str, batch: int, compile_student: bool, device: torch.device) -> tuple[Step, str]:
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
    recompute_blocks(task.student.network)
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
    return Step(task, teacher, image), description


def benchmark_training(
    experiment: str, batch: int, precisions: Sequence[str], compile_student: bool, ingredients: bool, device: torch.device, runs: int
) -> None:
    """Print the seconds and the peak memory of a step of each variant, and the share of each part.

    `ingredients`: also measure each faster implementation alone. A step before those of each variant is not measured.
    """
    step, description = build_step(experiment, batch, compile_student, device)
    parts = {
        "teacher": step.write_pseudo_labels,
        "forward": step.run_student,
        "loss": step.compute_loss,
        "backward": step.run_backward,
        "update": step.update_weights,
    }
    print(description)
    print(
        f"{device_name(device)}, torch {torch.__version__}{', compiled' * compile_student}, median of {runs} steps, share of each part in %"
    )
    print(f"{'':<30}{'s/step':>8}{'ratio':>7}{'GB':>7}" + "".join(f"{name:>10}" for name in parts))
    for precision in precisions:
        plain = 0.0
        for name in VARIANTS if ingredients else ("plain", "all", "all, recompute=true"):
            step.use(VARIANTS[name], PRECISIONS[precision])
            reset_peak(device)
            turns = [[seconds(part, device) for part in parts.values()] for _ in range(runs + 1)][1:]
            times = [statistics.median(turn) for turn in zip(*turns, strict=True)]
            total = statistics.median(map(sum, turns))
            plain = plain or total
            shares = "".join(f"{100 * value / total:>10.1f}" for value in times)
            print(f"{precision + ', ' + name:<30}{total:>8.2f}{plain / total:>7.2f}{peak_memory(device):>7.2f}{shares}", flush=True)
