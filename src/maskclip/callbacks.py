"""What happens beside training and evaluation: progress by steps and pictures of predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from tqdm import tqdm

from maskclip.data.images import write_atomically
from maskclip.data.samplers import EveryNth
from maskclip.pictures import colourise, legend, magnify, overlay, sheet, stack
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

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description("training")
        self.train_progress_bar.initial = trainer.fit_loop.epoch_loop.batch_idx + 1

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


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
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        torch.save(checkpoint, partial)
        partial.replace(target)


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
