"""From coarse logits to labels, tile by tile: nothing of the size classes x height x width is ever made.

Bilinear upsampling, cutting, averaging over windows and views and resizing are all linear and separable, so the logits of
any tile of the output are sums of A L B' with a few rows of A and B and a patch of the coarse logits L (`resampling.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from maskclip.functional import best_word
from maskclip.process_wide import SettingOverride

SOFT = ("confidence", "margin", "entropy")

TILE_WIDTH = {"cpu": 128, "cuda": 1024}
TILE_VALUES = {"cpu": 2**19, "cuda": 2**26}
"""Logits of a tile: what a core's caches hold, or what keeps a GPU busy."""


@dataclass(frozen=True)
class View:
    """The coarse logits (h, C, w) of one look at an image, and the maps to its pixels: `rows` (H, h), `columns` (W, w)."""

    logits: Tensor
    rows: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Rule:
    """How the logits of a pixel become its label.

    Probabilities are the softmax of `scale` x logits. `counts` is given where logits are of words: how many words each
    class has; a class is as probable as its most probable word. Below `threshold` the best class gives way to class 0,
    the background. `average` says what is averaged over views, `softmax` that an unscaled softmax comes before the
    argmax (see `Released`).

    `area` comes before `threshold` and looks at the whole image: among the pixels whose most probable class is not class 0,
    a class that covers at most this share gets probability 0, and the most probable class is taken anew. The other
    probabilities stay as they are. Source: `area_thd` in SCLIP's repository (Wang et al., ECCV 2024).
    """

    scale: float = 1.0
    threshold: float | None = None
    counts: Sequence[int] | None = None
    average: Literal["logits", "probabilities"] = "logits"
    softmax: bool = False
    area: float | None = None

    @property
    def prunes(self) -> bool:
        """Whether a label is that of the largest mean logit and of nothing else."""
        return self.threshold is None and self.average == "logits" and not self.softmax


@dataclass(frozen=True)
class Features:
    """What the network says of an image in the space of the text embeddings, for whoever wants to search or cluster.

    `features` (D, h, w) float32 of unit length: cosines with text embeddings are their dot products. The network saw the
    image scaled to `input_size` (height, width); the grid covers `covered_size`, which is that and what was padded at the
    bottom and right.
    """

    features: Tensor
    input_size: tuple[int, int]
    covered_size: tuple[int, int]


@dataclass(frozen=True)
class Prediction:
    """What is predicted for an image of H x W pixels; all but the labels are None unless asked for.

    `labels` (H, W) uint8, int32 where there are more than 256 classes. The others are of the probabilities, before the
    area threshold and the background threshold: `confidence` (H, W) of the best class, `margin` (H, W) between it and the second, `entropy`
    (H, W) of all in nats, made to sum to one where only the best word of each class counts; `top_classes` (K, H, W), typed
    as the labels, and `top_probabilities` (K, H, W) of the best ones, best first. Floats are of the logits' type, float32.
    `features` are those that the logits are made from.
    """

    labels: Tensor
    confidence: Tensor | None = None
    margin: Tensor | None = None
    entropy: Tensor | None = None
    top_classes: Tensor | None = None
    top_probabilities: Tensor | None = None
    features: Features | None = None

    def cpu(self) -> Prediction:
        """The same on the CPU."""
        there: dict[str, Any] = {name: value.cpu() for name, value in vars(self).items() if isinstance(value, Tensor)}
        if self.features is not None:
            there["features"] = replace(self.features, features=self.features.features.cpu())
        return replace(self, **there)


@dataclass(frozen=True)
class _Patch:
    """The part of a view that a tile of R x X pixels depends on: logits (h, C, w), rows (R, h), columns (X, w)."""

    logits: Tensor
    rows: Tensor
    columns: Tensor

    def upsampled(self) -> Tensor:
        """Logits (R, C, X)."""
        height, classes, width = self.logits.shape
        wide = self.logits.reshape(height * classes, width) @ self.columns.T
        return (self.rows @ wide.view(height, -1)).view(len(self.rows), classes, -1)


def label_map(
    views: Sequence[View], rule: Rule, num_classes: int, soft: Sequence[str] = (), top: int = 0, tile_values: int | None = None
) -> Prediction:
    """The labels of an image from its views, and what else is asked for: names of `SOFT`, and the `top` best classes.

    Equal to upsampling everything and deciding then, but for classes that tie within rounding. `tile_values` is how many
    logits are made at a time.
    """
    logits, size = views[0].logits, (len(views[0].rows), len(views[0].columns))
    removed = None if rule.area is None else _small_classes(views, rule, num_classes, tile_values)
    kind = torch.uint8 if num_classes <= 256 else torch.int32
    results: dict[str, Any] = {"labels": logits.new_empty(size, dtype=kind)}
    results |= {name: logits.new_empty(size) for name in soft}
    if top:
        results |= {"top_classes": logits.new_empty((top, *size), dtype=kind), "top_probabilities": logits.new_empty((top, *size))}
    with _all_digits(logits.device):
        for rows, columns, patches in _tiles(views, tile_values):
            for name, values in _tile(patches, rule, soft, top, removed).items():
                results[name][..., rows, columns] = values
    return Prediction(**results)


def _small_classes(views: Sequence[View], rule: Rule, num_classes: int, tile_values: int | None) -> Tensor:
    """Which logits (C,) belong to classes that `rule.area` removes from the image, by a first pass over its tiles."""
    assert rule.area is not None
    labels = label_map(views, replace(rule, threshold=None, area=None), num_classes, tile_values=tile_values).labels
    counts = torch.tensor(rule.counts or [1] * views[0].logits.shape[1], device=labels.device)
    pixels = torch.bincount(labels.flatten(), minlength=len(counts)).double()
    pixels[0] = 0
    small = pixels / pixels.sum().clamp(min=1) <= rule.area  # a quotient: 0.29 * 100 is less than 29
    small[0] = False
    return small.repeat_interleave(counts)


def full_logits(views: Sequence[View]) -> Tensor:
    """The mean logits (C, H, W) of the views at full size, all at once."""
    with _all_digits(views[0].logits.device):
        return _mean([_Patch(view.logits, view.rows, view.columns).upsampled() for view in views]).permute(1, 0, 2)


def _matmul_precision() -> tuple[str, ...]:
    """How torch multiplies float32 matrices, on CUDA and on the CPU."""
    if FP32_PRECISION:
        return tuple(switch.fp32_precision for switch in FP32_PRECISION)
    return (torch.get_float32_matmul_precision(),)


def _set_matmul_precision(values: tuple[str, ...]) -> None:
    if not FP32_PRECISION:
        torch.set_float32_matmul_precision(values[0])
    for switch, value in zip(FP32_PRECISION, values, strict=False):
        switch.fp32_precision = "none"  # follows torch.backends.fp32_precision, as it may have done before
        if switch.fp32_precision != value:
            switch.fp32_precision = value


FP32_PRECISION: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul] if hasattr(torch.backends.mkldnn, "matmul") else []
"""Switches of torch 2.9 and newer, where the older one raises an error after any use of these; none before."""

FULL_PRECISION: SettingOverride[tuple[str, ...]] = SettingOverride(
    _matmul_precision, _set_matmul_precision, ("ieee", "ieee") if FP32_PRECISION else ("highest",)
)
"""Float32 products that neither TF32 nor bfloat16 shortens. torch has no way to ask for this in a single product."""


@contextmanager
def _all_digits(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32: close classes need all their digits."""
    with FULL_PRECISION, torch.autocast(device.type, enabled=False):
        yield


def _tiles(views: Sequence[View], tile_values: int | None) -> Iterator[tuple[slice, slice, list[_Patch]]]:
    """The tiles of the output, row by row: where they lie, and what of each view they depend on."""
    (height, width), logits = (len(views[0].rows), len(views[0].columns)), views[0].logits
    kind = "cpu" if logits.device.type == "cpu" else "cuda"
    across = min(width, TILE_WIDTH[kind])
    down = max(1, (tile_values or TILE_VALUES[kind]) // (logits.shape[1] * across))
    columns = [(slice(x, x + across), [_reach(view.columns[x : x + across]) for view in views]) for x in range(0, width, across)]
    for y in range(0, height, down):
        rows = [_reach(view.rows[y : y + down]) for view in views]
        bands = [view.logits[reached] for view, (reached, _) in zip(views, rows, strict=True)]
        for where, across_it in columns:
            parts = zip(bands, rows, across_it, strict=True)
            yield slice(y, y + down), where, [_Patch(band[..., j], a, b) for band, (_, a), (j, b) in parts]


def _reach(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which values some rows of a map depend on, and the rows for these values alone."""
    reached = rows.any(dim=0).nonzero()[:, 0]
    return reached, rows[:, reached]


def _mean(maps: Sequence[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.stack(list(maps)).mean(dim=0)


def _tile(patches: Sequence[_Patch], rule: Rule, soft: Sequence[str], top: int, removed: Tensor | None) -> dict[str, Tensor]:
    """What is asked for of a tile, each (R, X), of the `top` classes (K, R, X)."""
    if not soft and not top and rule.prunes and removed is None:
        patches, alive = _contenders(patches)
        if len(alive) == 1:
            return {"labels": _classes(alive, rule)}
        return {"labels": _classes(alive[_mean([patch.upsampled() for patch in patches]).max(dim=1)[1]], rule)}
    maps = [patch.upsampled() for patch in patches]
    if rule.average == "probabilities":  # their logarithms are logits like any others
        shares = _mean([logits.mul_(rule.scale).softmax(dim=1) for logits in maps])
        return decide(shares.clamp_(min=torch.finfo(shares.dtype).tiny).log_(), replace(rule, scale=1.0), soft, top, removed)
    return decide(_mean(maps), rule, soft, top, removed)


def decide(logits: Tensor, rule: Rule, soft: Sequence[str] = (), top: int = 0, removed: Tensor | None = None) -> dict[str, Tensor]:
    """The `labels` (B, ...) int64 of logits (B, C, ...) at full size, and what else is asked for; the logits are overwritten.

    `removed` (C,) marks logits that cannot become labels (`Rule.area`); they still count in the softmax.
    In place because fresh memory of this size costs more than the arithmetic.
    """
    scores = logits.softmax(dim=1) if rule.softmax else logits
    if removed is not None:
        scores = scores.masked_fill(removed.view(-1, *[1] * (logits.dim() - 2)), -torch.inf)
    best_logit = scores.max(dim=1)[1]
    labels = _classes(best_logit, rule)
    if rule.threshold is None and not soft and not top:
        return {"labels": labels}
    # of each probability over the largest; what is below -80 would take ten times as long to exponentiate
    odds = logits.sub_(logits.amax(dim=1, keepdim=True)).mul_(rule.scale).clamp_(min=-80)
    classes = odds if rule.counts is None else best_word(odds, rule.counts)
    found = _entropy(classes) if "entropy" in soft else {}
    best, order = classes.topk(min(max(top, 2), classes.shape[1]), dim=1) if "margin" in soft or top else (None, None)
    confidence = 1 / odds.exp_().sum(dim=1)
    if rule.threshold is not None:
        # without the area threshold, the label's probability is the confidence
        sure = confidence if removed is None else odds.gather(1, best_logit.unsqueeze(1)).squeeze(1) * confidence
        labels = labels.masked_fill(sure < rule.threshold, 0)
    found |= {"labels": labels}
    found |= {"confidence": confidence} if "confidence" in soft else {}
    if best is not None and order is not None:
        best = best.exp() * confidence.unsqueeze(1)
        found |= {"margin": best[:, 0] - best[:, 1] if best.shape[1] > 1 else best[:, 0]} if "margin" in soft else {}
        if top:
            found |= {"top_classes": order[:, :top].transpose(0, 1), "top_probabilities": best[:, :top].transpose(0, 1)}
    return found


def _entropy(odds: Tensor) -> dict[str, Tensor]:
    weights = odds.exp()
    total = weights.sum(dim=1)
    return {"entropy": total.log() - weights.mul_(odds).sum(dim=1) / total}


def _contenders(patches: Sequence[_Patch]) -> tuple[Sequence[_Patch], Tensor]:
    """The patches without the classes that cannot win anywhere in the tile, and which classes are left, (L,).

    Every logit of the tile is a weighted mean of its class in the patch. A class whose largest value lies below the
    smallest of another's loses to it everywhere.
    """
    least = _mean([patch.logits.amin(dim=(0, 2)) for patch in patches])
    most = _mean([patch.logits.amax(dim=(0, 2)) for patch in patches])
    alive = (most >= least.max()).nonzero()[:, 0]
    if len(alive) == len(most):
        return patches, alive
    return [replace(patch, logits=patch.logits[:, alive]) for patch in patches], alive


def _classes(labels: Tensor, rule: Rule) -> Tensor:
    """The classes of labels that may be words."""
    return labels if rule.counts is None else torch.repeat_interleave(torch.tensor(rule.counts, device=labels.device))[labels]
