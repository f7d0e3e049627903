"""The evaluation protocol: how an image is scaled, cut into windows and flipped, and how logits become labels. Plain data."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from maskclip.errors import InputError, is_count, is_number, is_probability, require
from maskclip.images.sizes import scaled_size
from maskclip.inference.kernels import PRECISIONS

Size = tuple[int, int]

AUTOMATIC_WINDOW = 1024
"""Side in pixels of the windows for inputs of more than `max_pixels`, if the protocol sets no windows."""


@dataclass(frozen=True)
class Protocol:
    """How an image is predicted. The default is one forward pass at the image's own size.

    Scaling: the image is scaled up or down, with its aspect ratio kept, until a side is as long as `short_side` or
    `long_side` (see `scaled_size`). `scales` is a list of short sides that replaces `short_side`, one view for each, limited by
    `long_side`. `flip` adds a mirrored view for each scale.

    Windows: `window` and `stride`, in pixels of the scaled image, cut it into square windows; the last ones are shifted
    inwards. A side shorter than the window is not cut. Inputs of more than `max_pixels` are always cut: by default into
    windows of 1024 pixels every 768, or smaller ones of at most `max_pixels`.

    Labels: logits of overlapping windows are averaged. Logits of scales and flips are averaged too, or with
    `average="probabilities"` their softmax. `logit_scale`: temperature of the final softmax; refinements inside the model are
    not affected. `background_threshold`: pixels whose best class is less probable become background. `None` uses the model's
    value for either. `area_threshold` removes classes that cover at most this share of the image's foreground (see `Rule.area`),
    before the background threshold. `synonyms`: the score of a class with several words is that of its best word on the
    coarse grid ("best"), or of its most probable word at full size, with a softmax over all words ("probability", as in SCLIP).

    Speed: `precision` of the network, "fp32", "bf16" or "fp16"; it overrides the trainer's. `batch_size`: number of windows in one
    forward pass. Raises `InputError` for invalid values.
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
                    f"protocol.scales={self.scales!r}: give a list of short sides, such as 'protocol.scales=[224,336,520]', or null"
                )
            object.__setattr__(self, "scales", tuple(self.scales))  # configs and checkpoints have lists
            if self.short_side is not None:
                raise InputError(f"protocol.scales={list(self.scales)} and protocol.short_side={self.short_side}: set only one of them")
        self._check_numbers()
        self._normalise()
        choices = {"average": ("logits", "probabilities"), "synonyms": ("best", "probability"), "precision": tuple(PRECISIONS)}
        for name, values in choices.items():
            if getattr(self, name) not in values:
                raise InputError(f"protocol.{name}={getattr(self, name)}: choose {' or '.join(values)}")
        if (self.window is None) != (self.stride is None):
            raise InputError(f"protocol.window={self.window} protocol.stride={self.stride}: set both, or null for both")
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise InputError(f"protocol.stride={self.stride} is larger than protocol.window={self.window}: windows would leave gaps")

    def _check_numbers(self) -> None:
        for name in ("short_side", "long_side", "window", "stride"):
            if getattr(self, name) is not None and not is_count(getattr(self, name)):
                raise InputError(f"protocol.{name}={getattr(self, name)}: expected pixels, at least 1, or null")
        for name in ("batch_size", "max_pixels"):
            if not is_count(getattr(self, name)):
                raise InputError(f"protocol.{name}={getattr(self, name)}: expected a whole number, at least 1")
        if invalid := [side for side in self.scales or () if not is_count(side)]:
            raise InputError(f"protocol.scales contains {invalid[0]!r}: expected pixels, at least 1")
        require(isinstance(self.flip, bool), "protocol.flip", self.flip, "true or false")
        if self.logit_scale is not None and not (is_number(self.logit_scale) and self.logit_scale > 0):
            raise InputError(f"protocol.logit_scale={self.logit_scale}: expected a number above 0, or null for the model's value")
        threshold, area = self.background_threshold, self.area_threshold
        if threshold is not None and not is_probability(threshold):
            raise InputError(f"protocol.background_threshold={threshold}: expected a number from 0 to 1, or null for the model's value")
        if area is not None and not is_probability(area):
            raise InputError(f"protocol.area_threshold={area}: expected a number from 0 to 1, or null to keep all classes")

    def _normalise(self) -> None:
        """Make equivalent settings equal, so that they have the same hash."""
        for name in ("logit_scale", "background_threshold", "area_threshold"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.scales is not None and len(self.scales) == 1:
            object.__setattr__(self, "short_side", self.scales[0])
            object.__setattr__(self, "scales", None)

    def input_sizes(self, height: int, width: int) -> list[Size]:
        """Height and width of the network's input for an image of this size: one pair, or one for each of `scales`."""
        return [scaled_size(height, width, side, self.long_side) for side in self.scales or (self.short_side,)]

    def windows(self, height: int, width: int) -> tuple[int, int] | None:
        """Window and stride in pixels for an input of this size; None if it is not cut."""
        if self.window is not None and self.stride is not None:
            return self.window, self.stride
        if height * width <= self.max_pixels:
            return None
        window = min(AUTOMATIC_WINDOW, max(math.isqrt(self.max_pixels), self.max_pixels // min(height, width)))
        return window, max(1, window * 3 // 4)

    @property
    def settings(self) -> dict[str, Any]:
        """The values of all fields that affect results: all but `batch_size`.

        Defaults are included, so that a record of a run keeps its meaning when a default changes.
        """
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "batch_size"}

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of `settings`, equal for equal settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]


NATIVE = Protocol()
"""One forward pass at the image's own size."""
