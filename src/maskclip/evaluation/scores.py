"""The scores of semantic segmentation, all from one confusion matrix over the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from maskclip.functional import ignore_index


@dataclass(frozen=True)
class Scores:
    """Scores from 0 to 1; NaN if there are no pixels or classes to score.

    Attributes:
        iou: IoU (C,) of each class, TP / (TP + FP + FN) over the pixels of the data set.
        miou: Mean IoU of the classes that occur in the predictions or in the ground truth.
        pixel_accuracy: Share of labelled pixels that are predicted correctly.
        seen: Mean IoU S of the seen classes in the generalised setting, in which all classes compete.
        unseen: Mean IoU U of the unseen classes in that setting.
        harmonic: Harmonic mean of both, 2SU / (S + U).
    """

    iou: Tensor
    miou: float
    pixel_accuracy: float
    seen: float
    unseen: float
    harmonic: float


def iou_of(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, (C,) float64; NaN for classes that occur in neither predictions nor ground truth."""
    counts = confusion.double()
    intersection = counts.diag()
    return intersection / (counts.sum(0) + counts.sum(1) - intersection)


def scores(confusion: Tensor, unseen: Sequence[int] = ()) -> Scores:
    """All scores of pixel counts (C, C) with the ground truth in rows and predictions in columns; `unseen` are class indices."""
    iou = iou_of(confusion.cpu())
    is_unseen = torch.zeros(len(iou), dtype=torch.bool)
    is_unseen[list(unseen)] = True
    s, u = iou[~is_unseen].nanmean().item(), iou[is_unseen].nanmean().item()
    total = confusion.sum().item()
    return Scores(
        iou=iou,
        miou=iou.nanmean().item(),
        pixel_accuracy=confusion.diag().sum().item() / total if total else float("nan"),
        seen=s,
        unseen=u,
        harmonic=2 * s * u / (s + u) if s + u > 0 else (0.0 if s + u == 0 else float("nan")),
    )


class Confusion(MulticlassConfusionMatrix):
    """Pixel counts int64 (C, C) with the ground truth in rows and predictions in columns, summed over images and processes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes=num_classes, ignore_index=ignore_index(num_classes), validate_args=False)
