"""One forward pass over an image of any size that gives what sliding windows give.

SPAR: Kombol, Martinović, Šegvić and Tolias, "Single-Pass Any-Resolution ViT for Open-vocabulary Segmentation", CVPR 2026
(arXiv:2604.02252).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from maskclip.clip.dense import DenseCLIP
from maskclip.clip.finetuning import native_size, unfreeze, vit_of
from maskclip.data.dataset import Sample
from maskclip.errors import InputError
from maskclip.functional import mean_cosine
from maskclip.inference.views import window_features
from maskclip.tasks.checks import check_any_resolution, check_finite, check_windows


class AnyResolution(pl.LightningModule):
    """Fine-tunes the last blocks of a CLIP's image tower on the features that the frozen tower computes in sliding windows.

    The student sees a whole crop in one forward pass, the teacher sees it in windows. The loss is one minus the mean cosine of
    their features. Neither labels nor text are used, so the student classifies any words. All arguments are plain data, so
    that a checkpoint loads with `weights_only=True`. `attach_teacher` makes the student, a copy of the teacher; only the student is
    stored. Raises `InputError` for invalid settings.

    Args:
        window: Side of the windows in pixels; None is the size of the images that the tower was trained on.
        stride: Step of the windows in pixels; None is half a window.
        blocks: Number of the last transformer blocks that are trained.
        sizes: Smallest and largest side of the crops in pixels. Height and width are drawn for every step.
        lr: Learning rate of Adam at the first step; it falls to zero as a cosine.
        seed: Of the sizes of the crops.
        run: What else affects the result (data, batch size, steps, teacher); only stored, for resuming.
    """

    student: DenseCLIP

    def __init__(
        self,
        window: int | None = None,
        stride: int | None = None,
        blocks: int = 4,
        sizes: Sequence[int] = (224, 672),
        lr: float = 1e-5,
        seed: int = 0,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # the program logs its whole config
        check_any_resolution(self.hparams)
        self.cosine = MeanMetric()
        self._teacher: tuple[DenseCLIP, ...] = ()  # a tuple is not a submodule: neither trained nor stored

    def attach_teacher(self, teacher: DenseCLIP) -> None:
        """Use `teacher` for the windows, and a copy of it as the student. Raises `InputError` if the settings do not fit its tower."""
        self.window = self.hparams["window"] or native_size(teacher)
        self.stride = self.hparams["stride"] or max(1, self.window // 2)
        self.patch = vit_of(teacher).patch_size
        check_windows(self.window, self.stride, self.hparams["sizes"], self.patch)
        self.student = copy.deepcopy(teacher)
        unfreeze(self.student, self.hparams["blocks"])
        self._teacher = (teacher,)

    def on_fit_start(self) -> None:
        if not self._teacher:
            raise InputError("the windows need a teacher: call attach_teacher first")
        self._teacher[0].to(self.device)

    def on_train_batch_start(self, *_: Any) -> None:
        """Set the learning rate, a function of the step and the length of the run only: a resumed run may be longer."""
        factor = (1 + math.cos(math.pi * self.global_step / self.trainer.max_steps)) / 2
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.hparams["lr"] * factor

    def training_step(self, batch: Sample, _: int) -> Tensor:
        """One minus the mean cosine of the student's features and those of the windows."""
        height, width = self.crop_size(self.global_step)
        loss = 1 - self.agreement(batch["image"][..., :height, :width])
        check_finite(loss, self.global_step)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def crop_size(self, step: int) -> tuple[int, int]:
        """Height and width of the crops of a step in pixels, whole patches; the same in all processes."""
        random, (least, most) = np.random.default_rng([self.hparams["seed"], step]), self.hparams["sizes"]
        rows, columns = (side * int(random.integers(-(-least // side), most // side, endpoint=True)) for side in self.patch)
        return rows, columns

    def agreement(self, image: Tensor) -> Tensor:
        """Mean cosine of the features of images (B, 3, H, W) uint8 in one forward pass and in windows."""
        pixels = image.float() / 255
        features, _ = self.student(pixels)
        (teacher,) = self._teacher
        targets = window_features(teacher, pixels, self.window, self.stride, (features.shape[2], features.shape[3]))
        return mean_cosine(features.float(), targets)

    def validation_step(self, samples: list[Sample], _: int) -> None:
        for sample in samples:
            self.cosine.update(self.agreement(self.centre(sample["image"])[None]))

    def centre(self, image: Tensor) -> Tensor:
        """The centre (3, h, w) of an image, whole patches, with sides of at most the largest crop."""
        for axis, side in zip((1, 2), self.patch, strict=True):
            length = min(image.shape[axis], self.hparams["sizes"][1]) // side * side or image.shape[axis]
            image = image.narrow(axis, (image.shape[axis] - length) // 2, length)
        return image

    def on_validation_epoch_end(self) -> None:
        self.log("val/cosine", self.cosine.compute(), sync_dist=False, rank_zero_only=False)
        self.cosine.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam without weight decay, which would shrink the queries and keys of the last block if its strategy uses neither."""
        return torch.optim.Adam([parameter for parameter in self.student.parameters() if parameter.requires_grad], self.hparams["lr"])
