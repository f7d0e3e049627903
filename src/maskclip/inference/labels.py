"""From coarse logits to label maps and probabilities at full size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from maskclip.functional import best_word
from maskclip.inference.precision import full_precision
from maskclip.inference.tiles import CoarseLogits, contenders, mean, tiles

SOFT = ("confidence", "margin", "entropy")
"""Names of the outputs that are computed from probabilities, see `Prediction`."""


@dataclass(frozen=True)
class Rule:
    """How the logits of a pixel become its label.

    Probabilities are the softmax of `scale` times the logits. Pixels whose best class is less probable than `threshold`
    become class 0, the background. `counts`: number of words of each class, if logits belong to words; the probability of
    a class is that of its most probable word. `average`: what is averaged over views. `softmax`: apply an unscaled softmax
    before the argmax (see `Released`).

    `area` removes small classes from an image: a class other than class 0 is removed if it covers at most this share of
    the pixels whose most probable class is not class 0. Its probability becomes 0, the most probable class is taken again, and
    the threshold follows. Other probabilities do not change. Source: `area_thd` in SCLIP's repository (Wang et al., ECCV 2024).
    """

    scale: float = 1.0
    threshold: float | None = None
    counts: Sequence[int] | None = None
    average: Literal["logits", "probabilities"] = "logits"
    softmax: bool = False
    area: float | None = None

    @property
    def is_argmax(self) -> bool:
        """Whether the label of a pixel is the argmax of its mean logits, without other conditions."""
        return self.threshold is None and self.average == "logits" and not self.softmax and self.area is None


@dataclass(frozen=True)
class Features:
    """Dense image features in the space of the text embeddings, for search or clustering.

    `features` (D, h, w) float32 of unit length; their dot products with text embeddings are cosines. `input_size`:
    height and width of the scaled image that the network received. `covered_size`: height and width that the grid covers,
    which is the input and its padding at the bottom and right.
    """

    features: Tensor
    input_size: tuple[int, int]
    covered_size: tuple[int, int]


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image of H x W pixels. All fields but `labels` are None unless they are requested.

    `labels` (H, W): uint8, or int32 for more than 256 classes. The other fields describe the probabilities before the area
    threshold and the background threshold: `confidence` (H, W) of the best class; `margin` (H, W) between the best and the
    second class; `entropy` (H, W) in nats, of the class probabilities divided by their sum; `top_classes` (K, H, W), typed as
    the labels, and `top_probabilities` (K, H, W) of the K best classes, best first. Floats have the type of the logits, float32.
    `features`: the features that the logits are computed from.
    """

    labels: Tensor
    confidence: Tensor | None = None
    margin: Tensor | None = None
    entropy: Tensor | None = None
    top_classes: Tensor | None = None
    top_probabilities: Tensor | None = None
    features: Features | None = None

    def cpu(self) -> Prediction:
        """The prediction with all tensors on the CPU."""
        moved: dict[str, Any] = {name: value.cpu() for name, value in vars(self).items() if isinstance(value, Tensor)}
        if self.features is not None:
            moved["features"] = replace(self.features, features=self.features.features.cpu())
        return replace(self, **moved)


def label_map(
    views: Sequence[CoarseLogits],
    rule: Rule,
    num_classes: int,
    soft: Sequence[str] = (),
    top: int = 0,
    tile_values: int | None = None,
) -> Prediction:
    """Labels of an image from the coarse logits of its views, with the outputs named in `soft` and the `top` best classes.

    The result equals that of upsampling all logits first, except for classes that tie within rounding. `tile_values`:
    number of logits computed at a time.
    """
    logits, size = views[0].logits, (len(views[0].rows), len(views[0].columns))
    removed = None if rule.area is None else _small_classes(views, rule, num_classes, tile_values)
    dtype = torch.uint8 if num_classes <= 256 else torch.int32
    outputs: dict[str, Any] = {"labels": logits.new_empty(size, dtype=dtype)}
    outputs |= {name: logits.new_empty(size) for name in soft}
    if top:
        outputs |= {"top_classes": logits.new_empty((top, *size), dtype=dtype), "top_probabilities": logits.new_empty((top, *size))}
    with full_precision(logits.device):
        for rows, columns, patches in tiles(views, tile_values):
            for name, values in _tile_outputs(patches, rule, soft, top, removed).items():
                outputs[name][..., rows, columns] = values
    return Prediction(**outputs)


def _small_classes(views: Sequence[CoarseLogits], rule: Rule, num_classes: int, tile_values: int | None) -> Tensor:
    """Mask (C,) of the logits whose classes `rule.area` removes from the image; this takes a pass over all tiles."""
    assert rule.area is not None
    labels = label_map(views, replace(rule, threshold=None, area=None), num_classes, tile_values=tile_values).labels
    counts = torch.tensor(rule.counts or [1] * views[0].logits.shape[1], device=labels.device)
    pixels = torch.bincount(labels.flatten(), minlength=len(counts)).double()
    pixels[0] = 0
    small = pixels / pixels.sum().clamp(min=1) <= rule.area  # a quotient, because 0.29 * 100 < 29 in floating point
    small[0] = False
    return small.repeat_interleave(counts)


def _tile_outputs(patches: Sequence[CoarseLogits], rule: Rule, soft: Sequence[str], top: int, removed: Tensor | None) -> dict[str, Tensor]:
    """The requested outputs for a tile of R x X pixels: (R, X) each, and (K, R, X) for the `top` classes."""
    if rule.is_argmax and not soft and not top:
        patches, remaining = contenders(patches)
        if len(remaining) == 1:
            return {"labels": _classes(remaining, rule)}
        best = mean([patch.upsampled() for patch in patches]).max(dim=1).indices  # faster than argmax on CPUs, with equal results
        return {"labels": _classes(remaining[best], rule)}
    maps = [patch.upsampled() for patch in patches]
    if rule.average == "probabilities":  # their logarithms serve as logits of scale 1
        probabilities = mean([logits.mul_(rule.scale).softmax(dim=1) for logits in maps])
        logits = probabilities.clamp_(min=torch.finfo(probabilities.dtype).tiny).log_()
        return decide(logits, replace(rule, scale=1.0), soft, top, removed)
    return decide(mean(maps), rule, soft, top, removed)


def decide(logits: Tensor, rule: Rule, soft: Sequence[str] = (), top: int = 0, removed: Tensor | None = None) -> dict[str, Tensor]:
    """`labels` (B, ...) int64 of full-size logits (B, C, ...) and the other requested outputs. Overwrites `logits`.

    `removed` (C,): logits that cannot become labels (see `Rule.area`); they still count in the softmax. The function works in
    place because allocating memory of this size takes longer than the arithmetic.
    """
    scores = logits.softmax(dim=1) if rule.softmax else logits
    if removed is not None:
        scores = scores.masked_fill(removed.view(-1, *[1] * (logits.dim() - 2)), -torch.inf)
    best_logit = scores.max(dim=1).indices  # as above: faster than argmax
    labels = _classes(best_logit, rule)
    if rule.threshold is None and not soft and not top:
        return {"labels": labels}
    # log of each probability over the largest; exponentials of much smaller values are denormal and ten times slower
    odds = logits.sub_(logits.amax(dim=1, keepdim=True)).mul_(rule.scale).clamp_(min=-80)
    classes = odds if rule.counts is None else best_word(odds, rule.counts)
    outputs = {"entropy": _entropy(classes)} if "entropy" in soft else {}
    best, order = classes.topk(min(max(top, 2), classes.shape[1]), dim=1) if "margin" in soft or top else (None, None)
    confidence = 1 / odds.exp_().sum(dim=1)
    if rule.threshold is not None:
        # without removed classes, the probability of the label is the confidence
        probability = confidence if removed is None else odds.gather(1, best_logit.unsqueeze(1)).squeeze(1) * confidence
        labels = labels.masked_fill(probability < rule.threshold, 0)
    outputs |= {"labels": labels}
    outputs |= {"confidence": confidence} if "confidence" in soft else {}
    if best is not None and order is not None:
        best = best.exp() * confidence.unsqueeze(1)
        outputs |= {"margin": best[:, 0] - best[:, 1] if best.shape[1] > 1 else best[:, 0]} if "margin" in soft else {}
        if top:
            outputs |= {"top_classes": order[:, :top].transpose(0, 1), "top_probabilities": best[:, :top].transpose(0, 1)}
    return outputs


def _entropy(log_odds: Tensor) -> Tensor:
    """Entropy (B, ...) in nats of the distribution (B, C, ...) proportional to the exponential of `log_odds`."""
    weights = log_odds.exp()
    total = weights.sum(dim=1)
    return total.log() - weights.mul_(log_odds).sum(dim=1) / total


def _classes(indices: Tensor, rule: Rule) -> Tensor:
    """The classes of logit indices, which are indices of words if the rule has `counts`."""
    return indices if rule.counts is None else torch.repeat_interleave(torch.tensor(rule.counts, device=indices.device))[indices]
