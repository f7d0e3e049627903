"""MaskCLIP+ (section 3, MaskCLIP+): a student learns from MaskCLIP's pseudo labels, then from its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from maskclip.data.boxes import random_boxes
from maskclip.data.dataset import Sample
from maskclip.errors import InputError
from maskclip.evaluation.scores import Confusion, iou_of, scores
from maskclip.functional import UNLABELLED, cutmix, distillation, mean_over_pixels, pseudo_labels, stored_labels, upsample_logits
from maskclip.inference.predict import predict
from maskclip.inference.protocol import Protocol
from maskclip.inference.upsampled import upsampled_cross_entropy, upsampled_max
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.student import Student
from maskclip.tasks.checks import check_finite, check_task
from maskclip.tasks.optimisation import build_optimizer, steps_of


class MaskCLIPPlus(pl.LightningModule):
    """Trains a student on ground truth where it exists and on pseudo labels elsewhere.

    All arguments are plain data, so that a checkpoint loads with `weights_only=True`. The teacher is attached with
    `attach_teacher` and is not stored. Raises `InputError` for settings that are invalid or would have no effect.

    Args:
        classes: Arguments of a `Vocabulary`.
        embedding_dim: Channels of the text space.
        student: Arguments of a `Student`.
        labels: As in `SegmentationData`; decides which classes get pseudo labels.
        protocol: Arguments of the `Protocol` of validation.
        guided: How long the teacher makes the pseudo labels, before the student does: an int is a number of optimiser
            steps, a float from 0.0 to 1.0 a fraction of the run. The ambiguous int 1 is invalid.
        flip: Average the teacher's logits of a crop and of its mirror image.
        confidence: Ignore pseudo labels of the teacher with a lower score: a cosine, or with key smoothing the logarithm
            of the share of votes.
        mean_over: Average the loss over "valid" pixels or, as in the released code, over "all".
        distillation: Weight of the distance to the teacher's features at unlabelled pixels in the guided phase.
        cutmix: Probability that a part of an image is replaced by that part of another image of the batch (CutMix).
        optimizer: "sgd" or "adamw".
        lr: Initial learning rate, which decays to `min_lr` as a polynomial of degree `power`.
        momentum: Of SGD, by default 0.9. AdamW has none.
        weight_decay: Of both optimisers.
        power: See `lr`.
        min_lr: See `lr`.
        warmup: How long the learning rate rises linearly to `lr`, before it decays; an int or a float as in `guided`.
        encoder_lr: Factor on the learning rate of the encoder.
        decay_all: Whether biases, norm layers, class tokens and position embeddings have weight decay.
        run: What else affects the result (data, batch size, seed, steps); only stored, for resuming.
        provenance: The origin of the labels; only stored, for result cards.
    """

    unlabelled: Tensor

    def __init__(
        self,
        classes: Mapping[str, Any],
        embedding_dim: int,
        student: Mapping[str, Any],
        labels: str,
        protocol: Mapping[str, Any],
        guided: int | float = 1.0,
        flip: bool = False,
        confidence: float | None = None,
        mean_over: str = "valid",
        distillation: float = 0.0,
        cutmix: float = 0.0,
        optimizer: str = "sgd",
        lr: float = 0.01,
        momentum: float | None = None,
        weight_decay: float = 5e-4,
        power: float = 0.9,
        min_lr: float = 1e-4,
        warmup: int | float = 0,
        encoder_lr: float = 1.0,
        decay_all: bool = True,
        run: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # the program logs its whole config
        check_task(self.hparams)
        if optimizer == "sgd" and momentum is None:
            self.hparams["momentum"] = 0.9
        self.student = Student(classes, embedding_dim, provenance=provenance, **student)
        self.protocol = Protocol(**protocol)
        vocabulary = self.student.vocabulary
        unlabelled = {"seen": vocabulary.unseen_indices, "all": []}.get(labels, list(range(len(vocabulary))))
        self.register_buffer("unlabelled", torch.tensor(unlabelled, dtype=torch.long), persistent=False)
        self.confusion = Confusion(len(vocabulary))
        self.used_labels, self.own_labels = Confusion(len(vocabulary)), Confusion(len(vocabulary))
        self._teacher: tuple[MaskCLIP, ...] = ()  # a tuple is not a submodule: neither trained nor stored

    def attach_teacher(self, teacher: MaskCLIP) -> None:
        """Use `teacher` for the pseudo labels of the guided phase, and its text embeddings as the student's classifier."""
        if teacher.vocabulary.words != self.student.vocabulary.words:
            raise InputError("teacher and student have different words: build both with the same classes")
        self._teacher = (teacher,)
        self.student.text_embeddings.copy_(teacher.text_embeddings)

    @property
    def teacher_classes(self) -> Tensor:
        """The indices (U,) of the classes that the teacher assigns: the unlabelled ones that have words."""
        return self.unlabelled[self.unlabelled >= self.student.vocabulary.wordless]

    @property
    def guided_steps(self) -> int:
        """The number of optimiser steps in which the teacher makes the pseudo labels."""
        return steps_of(self.hparams["guided"], self.trainer.max_steps)

    @property
    def is_guided(self) -> bool:
        """Whether the teacher makes the pseudo labels of the current step."""
        return self.global_step < self.guided_steps

    @property
    def phase(self) -> str:
        """The source of the labels: "guided" (the teacher), "self-training" (the student) or "supervised" (ground truth only)."""
        return "supervised" if not len(self.unlabelled) else "guided" if self.is_guided else "self-training"

    def on_fit_start(self) -> None:
        if len(self.unlabelled) and not self._teacher and self.is_guided:
            raise InputError("the guided phase needs a teacher: call attach_teacher first")
        for teacher in self._teacher:
            teacher.to(self.device)

    def on_train_start(self) -> None:
        """Set the learning rates of the schedule; those in a checkpoint are wrong if the resumed run is longer."""
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):  # type: ignore[union-attr]
            group["lr"] = base * factor(schedule.last_epoch)  # type: ignore[union-attr]

    def training_step(self, batch: Sample, batch_index: int) -> dict[str, Tensor]:
        """The loss, the student's coarse `logits` (B, C, h, w), and what it learned from, see `examples`."""
        learned = self.examples(batch, batch_index)
        image, mask = learned["image"], learned["mask"]
        logits, features = self.student(image, with_features=True)  # logits are float32 under autocast, for exact labels
        if "labels" not in learned:
            learned["labels"] = self.own_pseudo_labels(mask, logits)
        labels = learned["labels"]
        loss = self.loss(logits, labels)
        if self.hparams["distillation"] and self.is_guided:
            loss = loss + self.hparams["distillation"] * self.distil(features, image, mask == UNLABELLED)
        check_finite(loss, self.global_step)
        if "truth" in learned:
            self.update_quality(learned["truth"], mask, labels, logits.detach())
        pseudo_labelled = (mask == UNLABELLED) & (labels != self.student.vocabulary.ignore_index)
        self.log_dict({"train/loss": loss, "train/pseudo_labelled": pseudo_labelled.float().mean()}, prog_bar=True)
        self.log_dict({"train/guided": float(self.is_guided), "train/lr": self.trainer.optimizers[0].param_groups[0]["lr"]})
        return {"loss": loss, "logits": logits.detach(), **learned}

    def examples(self, batch: Sample, batch_index: int) -> dict[str, Tensor]:
        """What the student learns from: `image` (B, 3, H, W) in 0..1, `mask`, `labels` and, if the batch has it, `truth` (B, H, W).

        Images are labelled before they are mixed with CutMix. Without `labels`, pseudo labels are those of the student's own logits,
        as in the paper's self-training.
        """
        image, mask = batch["image"].float() / 255, batch["mask"]
        if torch.isin(mask, self.unlabelled).any() and not ("corrected" in batch and batch["corrected"].any()):
            raise RuntimeError("the mask has a label of an unlabelled class: the data set leaks ground truth")
        learned = {"image": image, "mask": mask}
        if "truth" in batch:
            learned["truth"] = batch["truth"]
        if not len(self.unlabelled):
            learned["labels"] = mask
        elif self.is_guided:
            learned["labels"] = self.fill(mask, image, batch.get("pseudo"))
        if self.hparams["cutmix"]:
            size = (mask.shape[1], mask.shape[2])
            key = (self.hparams["run"] or {}).get("seed", 0), batch_index, self.global_rank
            boxes = random_boxes(len(mask), size, self.hparams["cutmix"], np.random.default_rng(key))
            learned = {name: cutmix(maps, boxes) for name, maps in learned.items()}
        return learned

    def update_quality(self, truth: Tensor, mask: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Count, for the log, the pseudo labels in use and those that the student would make, against the truth (B, H, W)."""
        own = self.own_pseudo_labels(mask, logits)
        ignored = self.student.vocabulary.ignore_index
        for quality, predicted in ((self.used_labels, labels), (self.own_labels, own)):
            quality.update(predicted, truth.masked_fill(predicted == ignored, ignored))

    def own_pseudo_labels(self, mask: Tensor, logits: Tensor) -> Tensor:
        """Labels (B, H, W): the mask with a pseudo label of the student's coarse logits (B, C, h, w) at unlabelled pixels."""
        size = (mask.shape[1], mask.shape[2])
        best = upsampled_max(logits.detach()[:, self.unlabelled], self.student.covered_size(*size), size)
        return pseudo_labels(mask, best, self.unlabelled)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of this process's coarse logits (B, C, h, w) against labels (B, H, W), divided by the pixels of all processes."""
        ignored = self.student.vocabulary.ignore_index
        valid = (labels != ignored).sum().float()
        if _num_processes() > 1:
            dist.all_reduce(valid)
            valid /= _num_processes()
        total = upsampled_cross_entropy(logits, labels, self.student.covered_size(labels.shape[1], labels.shape[2]), ignored)
        return mean_over_pixels(total, labels, ignored, self.hparams["mean_over"], valid)

    def distil(self, features: Tensor, image: Tensor, where: Tensor) -> Tensor:
        """The distance of the student's features (B, D, h, w) to the teacher's, at the pixels `where` (B, H, W)."""
        (teacher,) = self._teacher
        with torch.no_grad():
            target, _ = teacher.clip(image)
        return distillation(features.float(), target.float(), where)

    @torch.no_grad()
    def fill(self, mask: Tensor, image: Tensor, stored: Tensor | None = None) -> Tensor:
        """Labels (B, H, W): the mask with a pseudo label at unlabelled pixels, a `stored` one or the teacher's of the `image`."""
        ignored = self.student.vocabulary.ignore_index
        if stored is not None:
            return stored_labels(mask, stored, self.unlabelled, ignored)
        candidates = self.teacher_classes
        teacher_logits = self.teacher_logits(image, candidates)
        if self.hparams["flip"]:
            teacher_logits = (teacher_logits + self.teacher_logits(image.flip(-1), candidates).flip(-1)) / 2
        return pseudo_labels(mask, teacher_logits.max(dim=1), candidates, self.hparams["confidence"], ignored)

    def teacher_logits(self, image: Tensor, candidates: Tensor) -> Tensor:
        """The teacher's logits (B, U, H, W) at the size of the image, for the classes `candidates` (U,)."""
        (teacher,) = self._teacher
        size = (image.shape[2], image.shape[3])
        return upsample_logits(teacher(image, candidates), teacher.covered_size(*size), size)

    def on_validation_start(self) -> None:
        self._share_buffers()

    def on_train_end(self) -> None:
        self._share_buffers()

    def _share_buffers(self) -> None:
        """Copy the batch statistics of the first process to all: they differ if BatchNorm is not synchronised."""
        if _num_processes() > 1:
            for buffer in self.student.buffers():
                dist.broadcast(buffer, src=0)

    def validation_step(self, samples: list[Sample], _: int) -> None:
        predictions = predict(self.student, [sample["image"] for sample in samples], self.protocol)
        for sample, prediction in zip(samples, predictions, strict=True):
            self.confusion.update(prediction.labels, sample["mask"])

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the student, and the mIoU of the pseudo labels since the last validation, in percent."""
        unseen = self.student.vocabulary.unseen_indices
        result = scores(self.confusion.compute(), unseen)
        self.confusion.reset()
        values = {"val/miou": result.miou, "val/pixel_accuracy": result.pixel_accuracy}
        if unseen:
            values |= {"val/seen": result.seen, "val/unseen": result.unseen, "val/harmonic": result.harmonic}
        for name, quality in (("labels", self.used_labels), ("own_labels", self.own_labels)):
            if quality.update_called:
                values[f"train/{name}_miou"] = iou_of(quality.compute()).nanmean().item()
                quality.reset()
        self.log_dict({name: 100 * value for name, value in values.items()}, sync_dist=False, rank_zero_only=False)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, schedule = build_optimizer(self.student, self.hparams, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
