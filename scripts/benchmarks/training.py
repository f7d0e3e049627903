"""What a step of MaskCLIP+ is spent on, at the size of an experiment, on random weights and pixels."""

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
from maskclip.functional import UNLABELLED, upsample_logits
from maskclip.inference.kernels import PRECISIONS
from maskclip.programs.config import build, plain, words_of
from maskclip.tasks import MaskCLIPPlus
from maskclip.tasks.callbacks import peak_memory
from maskclip.vocabulary import Vocabulary

CONF = CHECKOUT / "conf"
RANDOM = ("teacher.pretrained=null", "teacher.templates=simple", "teacher.cache=null", "student.weights=null")


class Step:
    """The parts of a guided training step, one after the other, as `MaskCLIPPlus.training_step` runs them."""

    def __init__(self, task: MaskCLIPPlus, image: Tensor, given: Tensor, dtype: torch.dtype | None) -> None:
        self.task, self.image, self.given, self.dtype = task, image, given, dtype
        self.size = (image.shape[-2], image.shape[-1])
        self.optimizer = torch.optim.SGD(task.student.parameters(), 1e-3, momentum=0.9)
        self.features = self.logits = self.labels = self.loss = torch.empty(0)

    def cast(self) -> torch.autocast:
        return torch.autocast(self.image.device.type, self.dtype, enabled=self.dtype is not None)

    def teacher(self) -> None:
        (teacher,) = self.task._teacher
        with torch.no_grad(), self.cast():
            teacher.clip(self.image)

    def pseudo_labels(self) -> None:  # the teacher's forward pass included
        with self.cast():
            self.labels = self.task.fill(self.given, self.image, torch.empty(0))

    def student_forward(self) -> None:
        with self.cast():
            self.features = self.task.student.features(self.image)

    def classifier_and_loss(self) -> None:
        student = self.task.student
        with self.cast():
            self.logits = upsample_logits(student.classify(self.features), student.covered_size(*self.size), self.size)
            self.loss = self.task.loss(self.logits, self.labels)

    def backward(self) -> None:
        self.loss.backward()

    def optimiser(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


def benchmark_training(experiment: str, batch: int, precision: str, compile_it: bool, device: torch.device, runs: int) -> None:
    """Print the seconds of every part of a step, its share, images a second and the peak of memory."""
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
    if compile_it:
        task.student.network.compile()
    crop = plain(cfg.data.augmentation.crop)
    size = (crop, crop) if isinstance(crop, int) else tuple(crop)
    torch.manual_seed(0)
    image = torch.rand(batch, 3, *size, device=device)
    given = torch.full((batch, *size), UNLABELLED, device=device)
    step = Step(task, image, given, PRECISIONS[precision])
    parts = (step.teacher, step.pseudo_labels, step.student_forward, step.classifier_and_loss, step.backward, step.optimiser)
    turns = [[seconds(part, device) for part in parts] for _ in range(runs + 1)][1:]
    times = [statistics.median(turn) for turn in zip(*turns, strict=True)]
    total = statistics.median(sum(turn[1:]) for turn in turns)
    network = f"{cfg.student.arch} on {cfg.student.encoder}"
    print(
        f"{experiment}: {network}, teacher {cfg.teacher.architecture}, {batch} crops of {size[0]}x{size[1]}, {len(task.unlabelled)} classes"
    )
    print(f"{device_name(device)}, torch {torch.__version__}, {precision}{', compiled' if compile_it else ''}, median of {runs} steps")
    print(f"{'':<28}{'seconds':>10}{'share':>8}")
    for part, value in zip(parts, times, strict=True):
        name = {"teacher": "of that: teacher's tower"}.get(part.__name__, part.__name__.replace("_", " "))
        print(f"{name:<28}{value:>10.3f}{100 * value / total:>7.1f}%")
    print(f"{'step':<28}{total:>10.3f}{100:>7.1f}%\nimages per second {batch / total:.2f}, peak memory {peak_memory(device):.2f} GB")
