"""What is done with an image besides the model: sizes, windows, views, and how logits become labels. Plain data."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from maskclip.errors import InputError, is_count, is_number, require
from maskclip.inference.kernels import PRECISIONS

Size = tuple[int, int]

AUTOMATIC_WINDOW = 1024
"""Pixels; for inputs of more than `max_pixels`, where the protocol has no windows of its own; less where that is still more."""


@dataclass(frozen=True)
class Protocol:
    """How an image is predicted. The defaults: whole, at its own size.

    The image is scaled, ratio kept, up or down until a side is as long as `short_side` or `long_side`; with both, the
    smaller of the two scales counts (as "(2048, 512)" does in mmsegmentation). `scales` are several short sides in the place
    of one, each limited by `long_side`; `flip` adds the mirror image of each. `window` and `stride`, in pixels of the scaled
    image, cut it into square windows, the last ones shifted inwards; a side shorter than the window is taken whole.
    Inputs of more than `max_pixels` are cut into windows anyway, of 1024 every 768, or smaller ones of so many pixels.

    Logits of overlapping windows are averaged; scales and mirror images too, or, with `average` "probabilities", their
    softmax. `logit_scale` (what logits are multiplied by before a softmax over them; refinements inside the model keep
    theirs) and `background_threshold` None are the model's. `area_threshold` takes away the classes other than class 0 that cover at
    most this share of the image's foreground (see `Rule.area`), before the background threshold. `synonyms` says how a
    class with several words is scored: "best", by its best word on the coarse grid, or "probability", by its most probable
    word at full size, the softmax going over all words (the SCLIP lineage).

    `precision` of the network: "fp32", or features in "bf16" or "fp16"; it holds whatever the trainer's is. `batch_size` is how
    many views of one size go through the network together. Raises `InputError` for what does not fit.
    """

    short_side: int | None = None
    long_side: int | None = None
    window: int | None = None
    stride: int | None = None
    scales: Sequence[int] | None = None
    flip: bool = False
    average: Literal["logits", "probabilities"] = "logits"
    logit_scale: float | None = None
    background_threshold: float | None = None
    synonyms: Literal["best", "probability"] = "best"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch_size: int = 8
    max_pixels: int = 2**21
    area_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.scales is not None:
            if isinstance(self.scales, (str, int)) or not self.scales:
                raise InputError(
                    f"protocol.scales={self.scales!r}: give a list of short sides, such as 'protocol.scales=[224,336,520]', or null for one"
                )
            object.__setattr__(self, "scales", tuple(self.scales))  # a list of a config or a checkpoint, too
            if self.short_side is not None:
                raise InputError(f"protocol.scales={list(self.scales)} and protocol.short_side={self.short_side}: give one of the two")
        self._check_numbers()
        self._write_alike()
        choices = {"average": ("logits", "probabilities"), "synonyms": ("best", "probability"), "precision": tuple(PRECISIONS)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"protocol.{name}={getattr(self, name)}: choose {' or '.join(known)}")
        if (self.window is None) != (self.stride is None):
            raise InputError(f"protocol.window={self.window} protocol.stride={self.stride}: give both, or null for both")
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise InputError(f"protocol.stride={self.stride} is more than protocol.window={self.window}: there would be gaps")

    def _check_numbers(self) -> None:
        for name in ("short_side", "long_side", "window", "stride"):
            if getattr(self, name) is not None and not is_count(getattr(self, name)):
                raise InputError(f"protocol.{name}={getattr(self, name)}: give pixels, at least 1, or null for none")
        for name in ("batch_size", "max_pixels"):
            if not is_count(getattr(self, name)):
                raise InputError(f"protocol.{name}={getattr(self, name)}: give a number, at least 1")
        if strangers := [side for side in self.scales or () if not is_count(side)]:
            raise InputError(f"protocol.scales has {strangers[0]!r}: give pixels, at least 1")
        require(isinstance(self.flip, bool), "protocol.flip", self.flip, "true or false")
        if self.logit_scale is not None and not (is_number(self.logit_scale) and self.logit_scale > 0):
            raise InputError(f"protocol.logit_scale={self.logit_scale}: give a number above 0, or null for the model's")
        threshold, area = self.background_threshold, self.area_threshold
        if threshold is not None and not (is_number(threshold) and 0 <= threshold <= 1):
            raise InputError(f"protocol.background_threshold={threshold} is not a probability between 0 and 1 (null: the model's)")
        if area is not None and not (is_number(area) and 0 <= area <= 1):
            raise InputError(f"protocol.area_threshold={area} is not a share between 0 and 1 (null: no class is removed)")

    def _write_alike(self) -> None:
        """One of two ways to say the same, so that what does the same is equal and has one hash."""
        for name in ("logit_scale", "background_threshold", "area_threshold"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.scales is not None and len(self.scales) == 1:
            object.__setattr__(self, "short_side", self.scales[0])
            object.__setattr__(self, "scales", None)

    def input_sizes(self, height: int, width: int) -> list[Size]:
        """Height and width at which an image of this height and width is seen: one, or one of each of `scales`."""
        return [self._input_size(height, width, side) for side in self.scales or (self.short_side,)]

    def _input_size(self, height: int, width: int, short_side: int | None) -> Size:
        wanted = [(short_side, min(height, width)), (self.long_side, max(height, width))]
        scales = [side / of for side, of in wanted if side is not None]
        if not scales:
            return height, width
        scale = min(scales)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def windows(self, height: int, width: int) -> tuple[int, int] | None:
        """Window and stride for an input of this size; None: it goes in whole."""
        if self.window is not None and self.stride is not None:
            return self.window, self.stride
        if height * width <= self.max_pixels:
            return None
        window = min(AUTOMATIC_WINDOW, max(math.isqrt(self.max_pixels), self.max_pixels // min(height, width)))
        return window, max(1, window * 3 // 4)

    @property
    def settings(self) -> dict[str, Any]:
        """The value of every field that changes results: all fields but `batch`.

        Defaults are included, so that a record of a run keeps its meaning when a default changes.
        """
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "batch_size"}

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits, equal for two protocols with the same `settings` (the start of their SHA-256)."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]


NATIVE = Protocol()
