"""MaskCLIP+ (section 3.4): a student learns from MaskCLIP's pseudo labels, then from its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from maskclip.data.dataset import Sample
from maskclip.errors import InputError, is_count, is_number, require
from maskclip.evaluation.scores import Confusion, iou_of, scores
from maskclip.functional import UNLABELLED, cross_entropy, distillation, pseudo_labels, upsample_logits
from maskclip.inference.predict import predict
from maskclip.inference.protocol import Protocol
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.student import Student


class MaskCLIPPlus(pl.LightningModule):
    """Trains a student on labels that are given, and on pseudo labels where none are.

    `classes` are the arguments of a `Vocabulary`, `student` those of a `Student`. `labels` as in `SegmentationData`:
    it decides which classes are to be pseudo-labelled. For the first `guided` optimiser steps the teacher writes the pseudo labels,
    afterwards the student itself: an int is a number of steps, a float from 0.0 to 1.0 a fraction of the run. 1 is refused, as it
    reads like 1.0.
    `flip`: what the teacher says is the mean of a crop and its mirror image. `confidence`: pseudo labels of the teacher with
    a lower score (a cosine; with key smoothing the log share of votes) are ignored. The loss is the mean over "valid"
    pixels or, as released, over "all"; `distillation` is the weight of the distance to the teacher's features at unlabelled
    pixels in the guided phase. The learning rate falls from `lr` to `min_lr` with a polynomial of `power`. `momentum` None
    is 0.9 for SGD; AdamW takes none. Raises `InputError` for invalid settings and for those that would have no effect.

    `run` is what else decides the result (data, batch, seed, steps) and `provenance` where the labels came from; both are
    only kept, for resuming and for result cards. Everything here is plain data, so a checkpoint loads with
    `weights_only=True`; the teacher is attached, not stored.
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
        optimizer: str = "sgd",
        lr: float = 0.01,
        momentum: float | None = None,
        weight_decay: float = 5e-4,
        power: float = 0.9,
        min_lr: float = 1e-4,
        run: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # the program logs its whole config
        _check_settings(self.hparams)
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
        """Let `teacher` write the labels of the guided phase, and its text embeddings be the student's classifier."""
        if teacher.vocabulary.words != self.student.vocabulary.words:
            raise InputError("the teacher knows other words than the student: build both with the same classes")
        self._teacher = (teacher,)
        self.student.text_embeddings.copy_(teacher.text_embeddings)

    @property
    def guided_steps(self) -> int:
        """The number of optimiser steps for which the teacher writes the pseudo labels."""
        return steps_of(self.hparams["guided"], self.trainer.max_steps)

    @property
    def is_guided(self) -> bool:
        return self.global_step < self.guided_steps

    @property
    def phase(self) -> str:
        """Who writes the pseudo labels now: "guided" by the teacher, "self-training"; "supervised" where there are none to write."""
        return "supervised" if not len(self.unlabelled) else "guided" if self.is_guided else "self-training"

    def on_fit_start(self) -> None:
        if len(self.unlabelled) and not self._teacher and self.is_guided:
            raise InputError("the guided phase needs a teacher: attach_teacher was not called")
        for teacher in self._teacher:
            teacher.to(self.device)

    def on_train_start(self) -> None:
        """Set the learning rate of the schedule: that of a checkpoint is of a shorter run if the run was prolonged."""
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):  # type: ignore[union-attr]
            group["lr"] = base * factor(schedule.last_epoch)  # type: ignore[union-attr]

    def training_step(self, batch: Sample, _: int) -> dict[str, Tensor]:
        """The loss, with the labels (B, H, W) that it was taken against and the student's logits (B, C, H, W)."""
        image, given = batch["image"].float() / 255, batch["mask"]
        if torch.isin(given, self.unlabelled).any():
            raise RuntimeError("a label of a class that has none reached the training loss: the data set leaks it")
        grid_logits, features = self.student(image, with_features=True)  # float32 logits under autocast, too: labels come from them
        size = (image.shape[-2], image.shape[-1])
        logits = upsample_logits(grid_logits, self.student.covered_size(*size), size)
        labels = self.fill(given, image, logits) if len(self.unlabelled) else given
        loss = self.loss(logits, labels)
        if self.hparams["distillation"] and self.is_guided:
            loss = loss + self.hparams["distillation"] * self.distil(features, image, given == UNLABELLED)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is {loss.item()} at step {self.global_step}, and nothing sensible can follow: try a smaller task.lr, "
                "trainer.gradient_clip_val=1 or trainer.precision=32-true; the last checkpoint is from before"
            )
        if "truth" in batch:
            self.judge(batch["truth"], given, labels, logits.detach())
        filled = (given == UNLABELLED) & (labels != self.student.vocabulary.ignore_index)
        self.log_dict({"train/loss": loss, "train/pseudo_labelled": filled.float().mean()}, prog_bar=True)
        self.log_dict({"train/guided": float(self.is_guided), "train/lr": self.trainer.optimizers[0].param_groups[0]["lr"]})
        return {"loss": loss, "labels": labels, "logits": logits.detach()}

    def judge(self, truth: Tensor, given: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Count how the pseudo labels in use, and those that the student would write, compare with the truth (B, H, W); for the log."""
        own = pseudo_labels(given, logits[:, self.unlabelled], self.unlabelled)
        ignored = self.student.vocabulary.ignore_index
        for quality, guess in ((self.used_labels, labels), (self.own_labels, own)):
            quality.update(guess, truth.masked_fill(guess == ignored, ignored))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of logits (B, C, H, W) of this process against labels (B, H, W), valid pixels counted over all processes."""
        ignored = self.student.vocabulary.ignore_index
        valid = (labels != ignored).sum().float()
        if _processes() > 1:
            dist.all_reduce(valid)
            valid /= _processes()
        return cross_entropy(logits, labels, ignored, self.hparams["mean_over"], valid)

    def distil(self, features: Tensor, image: Tensor, where: Tensor) -> Tensor:
        """How far the student's features (B, D, h, w) are from the teacher's, at the pixels `where` (B, H, W)."""
        (teacher,) = self._teacher
        with torch.no_grad():
            target, _ = teacher.clip(image)
        return distillation(features.float(), target.float(), where)

    @torch.no_grad()
    def fill(self, given: Tensor, image: Tensor, logits: Tensor) -> Tensor:
        """The labels (B, H, W) with every unlabelled pixel filled: by the teacher, later by the student's own logits."""
        if not self.is_guided:
            return pseudo_labels(given, logits.detach()[:, self.unlabelled], self.unlabelled)
        (teacher,) = self._teacher
        nameable = self.unlabelled[self.unlabelled >= teacher.vocabulary.wordless]
        guesses = self.teacher_logits(image, nameable)
        if self.hparams["flip"]:
            guesses = (guesses + self.teacher_logits(image.flip(-1), nameable).flip(-1)) / 2
        return pseudo_labels(given, guesses, nameable, self.hparams["confidence"], self.student.vocabulary.ignore_index)

    def teacher_logits(self, image: Tensor, nameable: Tensor) -> Tensor:
        """What the teacher says of every pixel, (B, U, H, W), among the classes `nameable` (U,)."""
        (teacher,) = self._teacher
        size = (image.shape[-2], image.shape[-1])
        return upsample_logits(teacher(image, nameable), teacher.covered_size(*size), size)

    def on_validation_start(self) -> None:
        self._share_buffers()

    def on_train_end(self) -> None:
        self._share_buffers()

    def _share_buffers(self) -> None:
        """Give every process the batch statistics of the first: they differ where BatchNorm is not synchronised."""
        if _processes() > 1:
            for buffer in self.student.buffers():
                dist.broadcast(buffer, src=0)

    def validation_step(self, samples: list[Sample], _: int) -> None:
        predictions = predict(self.student, [sample["image"] for sample in samples], self.protocol)
        for sample, prediction in zip(samples, predictions, strict=True):
            self.confusion.update(prediction.labels, sample["mask"])

    def on_validation_epoch_end(self) -> None:
        unseen = self.student.vocabulary.unseen_indices
        result = scores(self.confusion.compute(), unseen)
        self.confusion.reset()
        values = {"miou": result.miou, "pixel_accuracy": result.pixel_accuracy}
        if unseen:
            values |= {"seen": result.seen, "unseen": result.unseen, "harmonic": result.harmonic}
        named = {f"val/{name}": value for name, value in values.items()}
        for name, quality in (("labels", self.used_labels), ("own_labels", self.own_labels)):
            if quality.update_called:
                named[f"train/{name}_miou"] = iou_of(quality.compute()).nanmean().item()
                quality.reset()
        self.log_dict({name: 100 * value for name, value in named.items()}, sync_dist=False, rank_zero_only=False)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        h = self.hparams
        parameters = self.student.parameters()
        optimizer: torch.optim.Optimizer
        if h["optimizer"] == "sgd":
            optimizer = torch.optim.SGD(parameters, h["lr"], momentum=h["momentum"], weight_decay=h["weight_decay"])
        else:
            optimizer = torch.optim.AdamW(parameters, h["lr"], weight_decay=h["weight_decay"])
        steps, floor = self.trainer.max_steps, h["min_lr"] / h["lr"]
        if steps < 1:
            raise InputError("trainer.max_steps must say how long to train: the learning rate and the phases depend on it")

        def factor(step: int) -> float:
            return (1 - floor) * (1 - min(step, steps) / steps) ** h["power"] + floor

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def steps_of(guided: int | float, max_steps: int) -> int:
    """The number of guided steps of a run: a float is a fraction of it."""
    return round(guided * max_steps) if isinstance(guided, float) else guided


def _check_settings(h: Mapping[str, Any]) -> None:
    """Raise `InputError` for an invalid setting of the task, or one without effect."""
    adamw, guided = h["optimizer"] == "adamw", h["guided"]
    steps = is_count(guided, least=0) and guided != 1
    rate = is_number(h["lr"]) and h["lr"] > 0
    confidence, momentum = h["confidence"], h["momentum"]
    for key, valid, expected in (
        ("guided", steps or (isinstance(guided, float) and 0 <= guided <= 1), "a fraction of the run such as 1.0, or at least 2 steps"),
        ("flip", isinstance(h["flip"], bool), "true or false"),
        ("confidence", confidence is None or (is_number(confidence) and -1 <= confidence <= 1), "a cosine from -1 to 1, or null"),
        ("mean_over", h["mean_over"] in ("valid", "all"), "valid or all"),
        ("distillation", is_number(h["distillation"]) and h["distillation"] >= 0, "a number, at least 0"),
        ("optimizer", h["optimizer"] in ("sgd", "adamw"), "sgd or adamw"),
        ("lr", rate, "a number above 0"),
        ("min_lr", rate and is_number(h["min_lr"]) and 0 <= h["min_lr"] <= h["lr"], f"a number from 0 to task.lr={h['lr']}"),
        ("weight_decay", is_number(h["weight_decay"]) and h["weight_decay"] >= 0, "a number, at least 0"),
        ("power", is_number(h["power"]) and h["power"] >= 0, "a number, at least 0"),
        ("momentum", momentum is None or (is_number(momentum) and 0 <= momentum < 1), "a number from 0 to below 1, or null"),
        ("momentum", momentum is None or not adamw, "null: task.optimizer=adamw has no momentum"),
    ):
        require(valid, f"task.{key}", h[key], expected)
    if guided == 0 or h["labels"] == "all":
        without = "task.guided=0" if guided == 0 else "data.labels=all"
        for key, off in (("flip", False), ("confidence", None), ("distillation", 0)):
            require(
                h[key] == off,
                f"task.{key}",
                h[key],
                f"{'null' if off is None else str(off).lower()}: with {without} the teacher labels nothing",
            )


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
