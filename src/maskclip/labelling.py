"""From coarse logits to labels, tile by tile: nothing of the size classes x height x width is ever made.

Bilinear upsampling, cutting, averaging over windows and views and resizing are all linear and separable, so the logits of
any tile of the output are sums of A L B' with a few rows of A and B and a patch of the coarse logits L (`resampling.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskclip.functional import best_word

SOFT = ("confidence", "margin", "entropy")

TILE_WIDTH = {"cpu": 160, "cuda": 1024}
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
    """

    scale: float = 1.0
    threshold: float | None = None
    counts: Sequence[int] | None = None
    average: Literal["logits", "probabilities"] = "logits"
    softmax: bool = False


@dataclass(frozen=True)
class Prediction:
    """What is predicted for an image of H x W pixels; all but the labels are None unless asked for.

    `labels` (H, W) uint8, int32 where there are more than 256 classes. The others are of the probabilities, before the
    background threshold: `confidence` (H, W) of the best class, `margin` (H, W) between it and the second, `entropy`
    (H, W) of all in nats, made to sum to one where only the best word of each class counts; `top_classes` (K, H, W), typed
    as the labels, and `top_probabilities` (K, H, W) of the best ones, best first. Floats are of the logits' type, float32.
    """

    labels: Tensor
    confidence: Tensor | None = None
    margin: Tensor | None = None
    entropy: Tensor | None = None
    top_classes: Tensor | None = None
    top_probabilities: Tensor | None = None


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


def decide(logits: Tensor, rule: Rule) -> Tensor:
    """The label of every pixel, (B, ...) int64, from logits (B, C, ...) at the size at which labels are wanted."""
    scores = logits.softmax(dim=1) if rule.softmax else logits
    best, labels = scores.max(dim=1, keepdim=True)
    if rule.counts is not None:
        labels = _owners(rule.counts, logits.device)[labels]
    if rule.threshold is not None:
        peak = logits.amax(dim=1, keepdim=True) if rule.softmax else best
        probability = 1 / ((logits - peak) * rule.scale).exp_().sum(dim=1, keepdim=True)
        labels = labels.masked_fill(probability < rule.threshold, 0)
    return labels.squeeze(1)


def label_map(
    views: Sequence[View], rule: Rule, num_classes: int, soft: Sequence[str] = (), top: int = 0, tile_values: int | None = None
) -> Prediction:
    """The labels of an image from its views, and what else is asked for: names of `SOFT`, and the `top` best classes.

    Equal to upsampling everything and deciding then, but for classes that tie within rounding. `tile_values` is how many
    logits are made at a time.
    """
    logits, size = views[0].logits, (len(views[0].rows), len(views[0].columns))
    kind = torch.uint8 if num_classes <= 256 else torch.int32
    results = {"labels": logits.new_empty(size, dtype=kind)}
    results |= {name: logits.new_empty(size) for name in soft}
    if top:
        results |= {"top_classes": logits.new_empty((top, *size), dtype=kind), "top_probabilities": logits.new_empty((top, *size))}
    with _all_digits(logits.device):
        for rows, columns, patches in _tiles(views, tile_values):
            found = _soft_tile(patches, rule, soft, top) if soft or top or rule.average != "logits" else {"labels": _labels(patches, rule)}
            for name, values in found.items():
                results[name][..., rows, columns] = values
    return Prediction(**results)


def full_logits(views: Sequence[View]) -> Tensor:
    """The mean logits (C, H, W) of the views at full size, all at once."""
    with _all_digits(views[0].logits.device):
        return _mean([_Patch(view.logits, view.rows, view.columns).upsampled() for view in views]).permute(1, 0, 2)


@contextmanager
def _all_digits(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32: close classes need all their digits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _tiles(views: Sequence[View], tile_values: int | None) -> Iterator[tuple[slice, slice, list[_Patch]]]:
    """The tiles of the output, row by row: where they lie, and what of each view they depend on."""
    (height, width), logits = (len(views[0].rows), len(views[0].columns)), views[0].logits
    kind = "cpu" if logits.device.type == "cpu" else "cuda"
    across = min(width, TILE_WIDTH[kind])
    down = max(1, (tile_values or TILE_VALUES[kind]) // (logits.shape[1] * across))
    columns = [(slice(x, x + across), [_reach(view.columns[x : x + across]) for view in views]) for x in range(0, width, across)]
    for y in range(0, height, down):
        for view_rows in [[_reach(view.rows[y : y + down]) for view in views]]:
            bands = [view.logits[reached] for view, (reached, _) in zip(views, view_rows, strict=True)]
            for where, view_columns in columns:
                parts = zip(bands, view_rows, view_columns, strict=True)
                yield slice(y, y + down), where, [_Patch(band[..., j], a, b) for band, (_, a), (j, b) in parts]


def _reach(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which values some rows of a map depend on, and the rows for these values alone."""
    reached = rows.any(dim=0).nonzero()[:, 0]
    return reached, rows[:, reached]


def _mean(maps: Sequence[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.stack(list(maps)).mean(dim=0)


def _labels(patches: Sequence[_Patch], rule: Rule) -> Tensor:
    """The labels (R, X) of a tile."""
    return decide(_mean([patch.upsampled() for patch in patches]), rule)


def _soft_tile(patches: Sequence[_Patch], rule: Rule, soft: Sequence[str], top: int) -> dict[str, Tensor]:
    """Labels of a tile and what else is asked for, (R, X) or (K, R, X)."""
    maps = [patch.upsampled() for patch in patches]
    if rule.average == "logits":
        maps = [_mean(maps)]
    words = _mean([(rule.scale * logits).softmax(dim=1) for logits in maps])
    probabilities = words if rule.counts is None else best_word(words, rule.counts)
    best, classes = probabilities.topk(min(max(top, 2), probabilities.shape[1]), dim=1)
    second = best[:, 1] if best.shape[1] > 1 else torch.zeros_like(best[:, 0])
    if rule.average == "logits":
        labels = decide(maps[0], rule)
    else:
        labels = probabilities.argmax(dim=1)
        labels = labels if rule.threshold is None else labels.masked_fill(best[:, 0] < rule.threshold, 0)
    found = {"labels": labels, "confidence": best[:, 0], "margin": best[:, 0] - second}
    if "entropy" in soft:
        found["entropy"] = torch.special.entr(probabilities / probabilities.sum(dim=1, keepdim=True)).sum(dim=1)
    if top:
        found |= {"top_classes": classes[:, :top].transpose(0, 1), "top_probabilities": best[:, :top].transpose(0, 1)}
    return {name: values for name, values in found.items() if name in soft or name == "labels" or name.startswith("top")}


def _owners(counts: Sequence[int], device: torch.device) -> Tensor:
    """The class of every word, (W,)."""
    return torch.repeat_interleave(torch.tensor(counts, device=device))
