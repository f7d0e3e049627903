"""What happens beside training and evaluation: progress by steps, pace and memory, pictures of labels and predictions."""

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
from tqdm import tqdm

from maskclip.data.samplers import EveryNth
from maskclip.errors import is_count, require
from maskclip.files import replacing
from maskclip.functional import UNLABELLED
from maskclip.images.drawing import colourise, legend, magnify, overlay, sheet, stack
from maskclip.images.writing import write_atomically
from maskclip.vocabulary import Vocabulary

CELL = 320
"""Side of one picture on a sheet, in pixels."""


class StepProgressBar(TQDMProgressBar):
    """Lightning's progress bar over optimiser steps: training data are an endless stream of draws without epochs.

    Where the output goes to a file it moves now and then only.
    """

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

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        self.train_progress_bar.set_description(self._phase, refresh=False)
        return metrics


class Pace(Callback):
    """Logs images a second, of all processes and without validation, and the peak of memory in GB: the GPU's, else the process's."""

    def __init__(self) -> None:
        self.seconds, self.images, self.peak = 0.0, 0, 0.0
        self._since: tuple[float, int] | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self._since is None:
            self._since = (time.perf_counter(), 0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        assert self._since is not None
        start, images = self._since
        images += len(batch["image"]) * trainer.world_size
        self._since = (start, images)
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self._stop()
        self._since = (time.perf_counter(), 0)  # waiting for the next batch counts
        self.peak = peak_memory(pl_module.device)
        pl_module.log_dict({"train/images_per_second": self.images / self.seconds, "train/memory_gb": self.peak})

    def _stop(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since[0]
            self.images += self._since[1]
            self._since = None

    def on_validation_start(self, *_: Any) -> None:
        self._stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()
        self.peak = peak_memory(pl_module.device)


def peak_memory(device: torch.device) -> float:
    """The most memory in GB that this process has held so far: torch's on a GPU, else all of the process.

    NaN for processes of systems other than Linux: Python has no portable call for it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e9 if found else math.nan


class LabelPictures(Callback):
    """Every so many steps, writes what the loss saw of the first crops: image | truth | labels | prediction of the student.

    The truth is what the data set shows of it: without masks there is none. Sheets go to `folder`, and to wandb or TensorBoard.
    """

    def __init__(self, folder: str | Path, every_n_train_steps: int = 1000, count: int = 4) -> None:
        require(
            is_count(every_n_train_steps),
            "callbacks.training_images.every_n_train_steps",
            every_n_train_steps,
            "a number of steps, at least 1",
        )
        require(is_count(count), "callbacks.training_images.count", count, "a number of images, at least 1")
        self.folder, self.every, self.count = Path(folder), every_n_train_steps, count
        self._done = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or step % self.every or step == self._done:  # steps stand still while gradients accumulate
            return
        self._done = step
        page = self.page(
            pl_module, {name: value[: self.count].cpu() for name, value in batch.items() if isinstance(value, Tensor)}, outputs
        )
        write_atomically(page, self.folder / f"{step:06}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("train/crops", [page], step=step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("train/crops", np.asarray(page), step, dataformats="HWC")

    def page(self, module: Any, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> Image.Image:
        """A sheet of the crops (B, 3, H, W) of a batch, with the outputs of the training step for them."""
        vocabulary: Vocabulary = module.student.vocabulary
        palette, truth = vocabulary.colours, batch["mask"].masked_fill(batch["mask"] == UNLABELLED, vocabulary.ignore_index)
        if "truth" in batch:
            truth = torch.where(batch["mask"] == UNLABELLED, batch["truth"], truth)
        rows = []
        for image, *maps in zip(
            batch["image"], truth, outputs["labels"].cpu(), outputs["logits"][: self.count].argmax(1).cpu(), strict=False
        ):
            pixels = magnify(image.permute(1, 2, 0).numpy(), CELL)
            rows.append([pixels, *(overlay(pixels, magnify(m.numpy().astype("int32"), CELL), palette) for m in maps)])
        page = sheet(rows, ["image", "ground truth", f"labels ({module.phase})", "student"], CELL)
        return stack([page, legend(vocabulary.names, palette, page.width)])


class PictureProgress(Callback):
    """A progress bar over pictures: how many a second, and the time left. Of several processes the first one's share is shown.

    Where the output goes to a file it moves every half minute.
    """

    bar: tqdm | None = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        todo: Any = pl_module.todo
        shown = f" (process 1 of {trainer.world_size})" if trainer.world_size > 1 else ""
        self.bar = tqdm(
            total=len(EveryNth(todo, trainer.global_rank, trainer.world_size)),
            desc=f"segmenting{shown}",
            unit="image",
            mininterval=0.1 if sys.stderr.isatty() else 30,
            disable=not trainer.is_global_zero,
            dynamic_ncols=True,
        )

    def on_predict_batch_end(self, _: pl.Trainer, __: pl.LightningModule, ___: Any, batch: Any, *____: Any) -> None:
        if self.bar is not None:
            self.bar.update(len(batch))

    def on_predict_end(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, *_: Any) -> None:
        self.on_predict_end()


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written beside their place and then renamed: a kill leaves the old one or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        with replacing(Path(path)) as partial, partial.open("wb") as stream:  # a stream reports what the disk refuses
            torch.save(checkpoint, stream)


class SavePictures(Callback):
    """Writes image | ground truth | prediction with a legend for the first `count` images of an evaluation."""

    def __init__(self, folder: str | Path, vocabulary: Vocabulary, count: int = 8) -> None:
        self.folder, self.vocabulary, self.count = Path(folder), vocabulary, count

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        each = trainer.test_dataloaders.batch_size if trainer.test_dataloaders else 1
        first = batch_idx * each * trainer.world_size + trainer.global_rank
        for number, sample in enumerate(batch):
            if first + number * trainer.world_size < self.count:
                self.write(sample["name"], sample["image"], sample["mask"], outputs[sample["name"]])

    def write(self, name: str, image: Tensor, mask: Tensor, labels: Tensor) -> None:
        """One sheet for one image: (3, H, W) uint8, (H, W) truth, (H, W) prediction."""
        palette = self.vocabulary.colours
        pixels = magnify(image.cpu().permute(1, 2, 0).numpy(), CELL)
        truth, predicted = (magnify(m.cpu().numpy().astype("int32"), CELL) for m in (mask, labels))
        page = sheet(
            [[pixels, colourise(truth, palette), overlay(pixels, predicted, palette)]], ["image", "ground truth", "prediction"], CELL
        )
        path = self.folder / f"{name.replace('/', '_')}.png"
        write_atomically(stack([page, legend(self.vocabulary.names, palette, page.width)]), path)
