"""Callbacks of training and evaluation: progress in steps, throughput and memory, and images of labels and predictions."""

from __future__ import annotations

import math
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from maskclip.errors import is_count, require
from maskclip.files import replacing
from maskclip.functional import UNLABELLED
from maskclip.images.drawing import colourise, legend, magnify, overlay, sheet, stack
from maskclip.images.writing import write_atomically
from maskclip.inference.upsampled import upsampled_max
from maskclip.vocabulary import Vocabulary

CELL = 320
"""Side of one image on a sheet, in pixels."""


class StepProgressBar(TQDMProgressBar):
    """Lightning's progress bar over optimiser steps: training data are an endless stream without epochs.

    If the output goes to a file, the bar is updated every 50 batches.
    """

    validation_description = "validation"
    test_description = "evaluation"

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 50)

    @property
    def total_train_batches(self) -> int | float:
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    @property
    def _phase(self) -> str:
        return getattr(self.trainer.lightning_module, "phase", "training")

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(self._phase)
        self.train_progress_bar.initial = trainer.fit_loop.epoch_loop.batch_idx + 1

    def on_validation_batch_start(self, *arguments: Any) -> None:
        super().on_validation_batch_start(*arguments)
        self.val_progress_bar.set_description(self.validation_description, refresh=False)  # without "DataLoader 0"

    def on_test_batch_start(self, *arguments: Any) -> None:
        super().on_test_batch_start(*arguments)
        self.test_progress_bar.set_description(self.test_description, refresh=False)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        self.train_progress_bar.set_description(self._phase, refresh=False)
        return metrics


class Pace(Callback):
    """Logs the images per second of all processes, without validation, and the peak memory in GB, see `peak_memory`.

    `seconds`, `images` and `peak` hold the totals of the run.
    """

    def __init__(self) -> None:
        self.seconds, self.images, self.peak = 0.0, 0, 0.0
        self._interval: tuple[float, int] | None = None  # its start, and the images since then

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self._interval is None:
            self._interval = (time.perf_counter(), 0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        assert self._interval is not None
        start, images = self._interval
        self._interval = (start, images + len(batch["image"]) * trainer.world_size)
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self._close_interval()
        self._interval = (time.perf_counter(), 0)  # waiting for the next batch counts
        self.peak = peak_memory(pl_module.device)
        pl_module.log_dict({"train/images_per_second": self.images / self.seconds, "train/memory_gb": self.peak})

    def _close_interval(self) -> None:
        if self._interval is not None:
            self.seconds += time.perf_counter() - self._interval[0]
            self.images += self._interval[1]
            self._interval = None

    def on_validation_start(self, *_: Any) -> None:
        self._close_interval()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close_interval()
        self.peak = peak_memory(pl_module.device)


def peak_memory(device: torch.device) -> float:
    """The peak memory of this process in GB: that of torch on a GPU, else that of the whole process.

    NaN on the CPU of systems other than Linux: Python has no portable call for it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(peak[1]) * 1024 / 1e9 if peak else math.nan


class TrainingImages(Callback):
    """Writes the first crops of a batch at regular steps: image | ground truth | labels of the loss | prediction.

    The ground truth includes what the data set hides from training, if it is loaded. The sheets are written to `folder` and
    logged to wandb or TensorBoard.
    """

    def __init__(self, folder: str | Path, every_n_train_steps: int = 1000, count: int = 4) -> None:
        key = "callbacks.training_images"
        require(is_count(every_n_train_steps), f"{key}.every_n_train_steps", every_n_train_steps, "a number of steps, at least 1")
        require(is_count(count), f"{key}.count", count, "a number of images, at least 1")
        self.folder, self.every, self.count = Path(folder), every_n_train_steps, count
        self._last_step = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or step % self.every or step == self._last_step:  # gradient accumulation repeats steps
            return
        self._last_step = step
        first = {name: value[: self.count].cpu() for name, value in outputs.items() if name != "loss"}
        page = self.page(pl_module, first)
        write_atomically(page, self.folder / f"{step:06}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("train/crops", [page], step=step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("train/crops", np.asarray(page), step, dataformats="HWC")

    def page(self, module: Any, outputs: dict[str, Tensor]) -> Image.Image:
        """A sheet of the images (B, 3, H, W) of a training step, from its outputs."""
        vocabulary: Vocabulary = module.student.vocabulary
        palette = vocabulary.colours
        size = (outputs["image"].shape[2], outputs["image"].shape[3])
        predicted = upsampled_max(outputs["logits"], module.student.covered_size(*size), size)[1]
        label_maps = zip(true_labels(outputs, vocabulary.ignore_index), outputs["labels"], predicted, strict=True)
        rows = []
        for image, maps in zip(outputs["image"], label_maps, strict=True):
            pixels = magnify((255 * image.permute(1, 2, 0)).round().byte().numpy(), CELL)
            rows.append([pixels, *(overlay(pixels, magnify(m.numpy().astype("int32"), CELL), palette) for m in maps)])
        page = sheet(rows, ["image", "ground truth", f"labels ({module.phase})", "student"], CELL)
        return stack([page, legend(vocabulary.names, palette, page.width)])


def true_labels(outputs: dict[str, Tensor], ignored: int) -> Tensor:
    """The ground truth (B, H, W) of a training step: the mask, and at unlabelled pixels the hidden truth or `ignored`."""
    mask = outputs["mask"]
    return torch.where(mask == UNLABELLED, outputs["truth"] if "truth" in outputs else torch.full_like(mask, ignored), mask)


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints to a temporary file that is renamed: after a kill, the old or the new one is complete."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        with replacing(Path(path)) as partial, partial.open("wb") as stream:  # a stream reports errors of the disk
            torch.save(checkpoint, stream)


class SaveImages(Callback):
    """Writes image | ground truth | prediction with a legend for the first `count` images of an evaluation."""

    def __init__(self, folder: str | Path, vocabulary: Vocabulary, count: int = 8) -> None:
        self.folder, self.vocabulary, self.count = Path(folder), vocabulary, count

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        batch_size = trainer.test_dataloaders.batch_size if trainer.test_dataloaders else 1
        first = batch_idx * batch_size * trainer.world_size + trainer.global_rank
        for number, sample in enumerate(batch):
            if first + number * trainer.world_size < self.count:
                self.write(sample["name"], sample["image"], sample["mask"], outputs[sample["name"]])

    def write(self, name: str, image: Tensor, mask: Tensor, labels: Tensor) -> None:
        """Write the sheet of one image: (3, H, W) uint8, ground truth (H, W), prediction (H, W)."""
        palette = self.vocabulary.colours
        pixels = magnify(image.cpu().permute(1, 2, 0).numpy(), CELL)
        truth, predicted = (magnify(m.cpu().numpy().astype("int32"), CELL) for m in (mask, labels))
        row = [pixels, colourise(truth, palette), overlay(pixels, predicted, palette)]
        page = sheet([row], ["image", "ground truth", "prediction"], CELL)
        path = self.folder / f"{name.replace('/', '_')}.png"
        write_atomically(stack([page, legend(self.vocabulary.names, palette, page.width)]), path)
