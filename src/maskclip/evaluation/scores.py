"""The field's scores, all from one confusion matrix over the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from maskclip.functional import ignore_index


@dataclass(frozen=True)
class Scores:
    """Scores in 0..1; NaN where nothing was there to score.

    `iou` (C,) of every class, `miou` its mean over classes that occur in the prediction or the ground truth,
    `pixel_accuracy` of all labelled pixels, `seen` and `unseen` the mean IoU of those classes in the generalised
    setting (all classes compete), `harmonic` their harmonic mean 2SU/(S+U).
    """

    iou: Tensor
    miou: float
    pixel_accuracy: float
    seen: float
    unseen: float
    harmonic: float


def iou_of(confusion: Tensor) -> Tensor:
    """Intersection over union of every class, (C,) float64; NaN for a class that is in neither prediction nor truth."""
    counts = confusion.double()
    intersection = counts.diag()
    return intersection / (counts.sum(0) + counts.sum(1) - intersection)


def scores(confusion: Tensor, unseen: Sequence[int] = ()) -> Scores:
    """All scores from pixel counts (C, C): rows are the truth, columns the prediction."""
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
    """Pixel counts of truth against prediction, int64 (C, C), summed over images and over processes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes=num_classes, ignore_index=ignore_index(num_classes), validate_args=False)
