"""Training augmentation, the recipe of the authors' code. The only module that imports albumentations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise it looks for a newer version on the network

import albumentations as A
import cv2
import numpy as np

from maskclip.data.seeds import augmentation_seed
from maskclip.errors import is_count, is_number, is_probability, require
from maskclip.functional import IGNORE_INDEX
from maskclip.images.sizes import scaled_size

MEAN_COLOUR = (124, 116, 104)
"""Padding: ImageNet's mean in 0..255, which networks normalise to about 0."""

Box = tuple[int, int, int, int]


class RandomRescale(A.DualTransform):
    """Resize to a short and a long side times a random ratio: bilinear for images, nearest for labels."""

    def __init__(self, short: int | None, long: int | None, ratio: tuple[float, float]) -> None:
        super().__init__(p=1.0)
        self.short, self.long, self.ratio = short, long, ratio

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        return {"size": scaled_size(height, width, self.short, self.long, self.py_random.uniform(*self.ratio))}

    def apply(self, img: np.ndarray, size: tuple[int, int], **_: Any) -> np.ndarray:
        return cv2.resize(img, size[::-1], interpolation=cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, size: tuple[int, int], **_: Any) -> np.ndarray:
        return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)


class VariedCrop(A.DualTransform):
    """Crop to at most `size` (height, width), such that no label covers a share `most` of the valid pixels; else the last of ten crops."""

    def __init__(self, size: tuple[int, int], most: float, ignore_index: int) -> None:
        super().__init__(p=1.0)
        self.size, self.most, self.ignore_index = size, most, ignore_index

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        box = self._box(height, width)
        mask = data["mask"] if data["mask"].ndim == 2 else data["mask"][..., 0]
        single_label = mask.min() == mask.max()  # as in annotation-free training
        for _ in range(0 if single_label or self.most >= 1 else 10):
            if self.is_varied(self.apply(mask, box)):
                break
            box = self._box(height, width)
        return {"box": box}

    def _box(self, height: int, width: int) -> Box:
        rows, columns = self.size
        top, left = self.py_random.randint(0, max(0, height - rows)), self.py_random.randint(0, max(0, width - columns))
        return top, left, top + rows, left + columns

    def is_varied(self, labels: np.ndarray) -> bool:
        counts = np.bincount(labels[labels != self.ignore_index].ravel())
        counts = counts[counts > 0]
        return len(counts) > 1 and counts.max() < self.most * counts.sum()

    def apply(self, img: np.ndarray, box: Box, **_: Any) -> np.ndarray:
        top, left, bottom, right = box
        return img[top:bottom, left:right]


class PhotometricDistortion(A.ImageOnlyTransform):
    """Change brightness, contrast, saturation and hue, each with probability 1/2; contrast before or after saturation and hue.

    Ranges of mmsegmentation's `PhotoMetricDistortion`: brightness in grey levels, contrast and saturation as factors, hue in
    steps of two degrees.
    """

    def __init__(self) -> None:
        super().__init__(p=1.0)

    def get_params(self) -> dict[str, Any]:
        random = self.py_random
        values = {
            "brightness": random.uniform(-32, 32),
            "contrast": random.uniform(0.5, 1.5),
            "saturation": random.uniform(0.5, 1.5),
            "hue": random.randint(-18, 17),
        }
        applied = {name: random.random() < 0.5 for name in values}
        return {"contrast_first": random.random() < 0.5, **{name: value if applied[name] else None for name, value in values.items()}}

    def apply(
        self,
        img: np.ndarray,
        brightness: float | None,
        contrast: float | None,
        saturation: float | None,
        hue: int | None,
        contrast_first: bool,
        **_: Any,
    ) -> np.ndarray:
        img = _linear(img, 1, brightness or 0)
        if contrast is not None and contrast_first:
            img = _linear(img, contrast)
        if saturation is not None or hue is not None:
            img = _shift_hsv(img, 1 if saturation is None else saturation, hue or 0)
        if contrast is not None and not contrast_first:
            img = _linear(img, contrast)
        return img


def _linear(image: np.ndarray, factor: float, offset: float = 0) -> np.ndarray:
    """factor * image + offset as uint8, clipped and truncated, as in the authors' code."""
    if factor == 1 and offset == 0:
        return image
    table = np.clip(np.arange(256, dtype=np.float32) * factor + offset, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


def _shift_hsv(image: np.ndarray, saturation: float, hue: int) -> np.ndarray:
    """The image with its saturation multiplied and its hue shifted in steps of two degrees."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    levels = np.arange(256, dtype=np.float32)
    tables = ((levels.astype(np.int32) + hue) % 180, np.clip(levels * saturation, 0, 255), levels)
    hsv = cv2.LUT(hsv, np.stack(tables, axis=1).astype(np.uint8)[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


class TrainTransform:
    """Random scale, crop, flip and colours for an image and its mask, a function of `seed` and the number of the draw.

    The authors' recipe, in order:

    1. Scale the image to a `short` and a `long` side (None: its own size), times a random ratio from `scale`.
    2. Crop it to `crop`, the side of a square or height and width. If a label covers `most` of the valid pixels or more, crop
       again, up to ten times.
    3. Flip it horizontally with probability `flip`.
    4. With `colour`, change brightness, contrast, saturation and hue.
    5. Pad it to `crop` with the mean colour, and the mask with `ignore_index`.
    """

    def __init__(
        self,
        crop: int | tuple[int, int],
        short: int | None = None,
        long: int | None = None,
        scale: tuple[float, float] = (0.5, 2.0),
        most: float = 0.75,
        flip: float = 0.5,
        colour: bool = True,
        ignore_index: int = IGNORE_INDEX,
        seed: int = 0,
    ) -> None:
        sides = [crop, crop] if isinstance(crop, int) else crop
        valid_crop = isinstance(sides, Sequence) and len(sides) == 2 and all(is_count(side) for side in sides)
        valid_scale = len(scale) == 2 and all(is_number(ratio) for ratio in scale) and 0 < scale[0] <= scale[1]
        for key, value, valid, expected in (
            ("crop", crop, valid_crop, "pixels, at least 1, or height and width"),
            ("short", short, short is None or is_count(short), "pixels, at least 1, or null"),
            ("long", long, long is None or is_count(long), "pixels, at least 1, or null"),
            ("scale", scale, valid_scale, "a range such as [0.5,2.0]"),
            ("most", most, is_number(most) and most > 0, "a share above 0; 1 accepts every crop"),
            ("flip", flip, is_probability(flip), "a probability from 0 to 1"),
            ("colour", colour, isinstance(colour, bool), "true or false"),
        ):
            require(valid, f"data.augmentation.{key}", value, expected)
        rows, columns = sides
        steps: list[A.BasicTransform] = [
            RandomRescale(short, long, (scale[0], scale[1])),
            VariedCrop((rows, columns), most, ignore_index),
            A.HorizontalFlip(p=flip),
            *([PhotometricDistortion()] if colour else []),
            A.PadIfNeeded(rows, columns, position="top_left", fill=MEAN_COLOUR, fill_mask=ignore_index),
        ]
        self.steps = A.Compose(steps)
        self.seed = seed

    def __call__(self, image: np.ndarray, mask: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The augmented image (H, W, 3) uint8 and mask (H, W). Equal numbers give equal results in every process.

        If there are several masks (H, W, K), crops are chosen by the first one.
        """
        self.steps.set_random_seed(augmentation_seed(self.seed, number))
        result = self.steps(image=image, mask=mask)
        return result["image"], result["mask"]
