"""Augmentation for training, the authors' recipe. The only module that knows albumentations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version on import

import albumentations as A
import cv2
import numpy as np

from maskclip.errors import is_count, is_number, is_probability, require

MEAN_COLOUR = (124, 116, 104)
"""What lies beyond the image: ImageNet's mean, which is zero once a network has normalised it."""

Box = tuple[int, int, int, int]


def scaled_size(height: int, width: int, short: int | None, long: int | None, ratio: float) -> tuple[int, int]:
    """Height and width of an image brought to within a short and a long side, both multiplied by `ratio`, its shape kept."""
    scales = [side / of for side, of in ((short, min(height, width)), (long, max(height, width))) if side]
    scale = ratio * min(scales, default=1.0)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


class RandomRescale(A.DualTransform):
    """Resizes once, to `short` and `long` side times a ratio from a range: bilinear, nearest for labels."""

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
    """A crop of at most `size` (height, width) in which no label covers `most` of what is not ignored, else the last of ten."""

    def __init__(self, size: tuple[int, int], most: float, ignore_index: int) -> None:
        super().__init__(p=1.0)
        self.size, self.most, self.ignore_index = size, most, ignore_index

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        box = self._box(height, width)
        mask = data["mask"] if data["mask"].ndim == 2 else data["mask"][..., 0]
        hopeless = self.most >= 1 or mask.min() == mask.max()  # annotation-free: there is nothing to vary
        for _ in range(0 if hopeless else 10):
            if self._is_varied(self.apply(mask, box)):
                break
            box = self._box(height, width)
        return {"box": box}

    def _box(self, height: int, width: int) -> Box:
        rows, columns = self.size
        top, left = self.py_random.randint(0, max(0, height - rows)), self.py_random.randint(0, max(0, width - columns))
        return top, left, top + rows, left + columns

    def _is_varied(self, labels: np.ndarray) -> bool:
        counts = np.bincount(labels[labels != self.ignore_index].ravel())
        counts = counts[counts > 0]
        return len(counts) > 1 and counts.max() < self.most * counts.sum()

    def apply(self, img: np.ndarray, box: Box, **_: Any) -> np.ndarray:
        top, left, bottom, right = box
        return img[top:bottom, left:right]


class PhotometricDistortion(A.ImageOnlyTransform):
    """Brightness, contrast, saturation and hue, each changed with probability 1/2, contrast before or behind the last two.

    `brightness` in grey levels, `contrast` and `saturation` as ranges of factors, `hue` in steps of two degrees.
    """

    def __init__(
        self,
        brightness: float = 32,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 18,
    ) -> None:
        super().__init__(p=1.0)
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def get_params(self) -> dict[str, Any]:
        draw = self.py_random
        changes = {
            "brightness": draw.uniform(-self.brightness, self.brightness),
            "contrast": draw.uniform(*self.contrast),
            "saturation": draw.uniform(*self.saturation),
            "hue": draw.randint(-self.hue, self.hue - 1),
        }
        on = {name: draw.random() < 0.5 for name in changes}
        return {"contrast_first": draw.random() < 0.5, **{name: value if on[name] else None for name, value in changes.items()}}

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
    """factor * image + offset in uint8, clipped and cut off as the authors' code does."""
    if factor == 1 and offset == 0:
        return image
    table = np.clip(np.arange(256, dtype=np.float32) * factor + offset, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


def _shift_hsv(image: np.ndarray, saturation: float, hue: int) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    levels = np.arange(256, dtype=np.float32)
    tables = ((levels.astype(np.int32) + hue) % 180, np.clip(levels * saturation, 0, 255), levels)
    hsv = cv2.LUT(hsv, np.stack(tables, axis=1).astype(np.uint8)[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


class TrainTransform:
    """Random scale, crop, flip and colours of an image with its mask; a function of the seed and the number of the draw.

    The authors' recipe: the image is brought to `short` and `long` side (None: its own), both multiplied by a ratio
    from `scale`, shape kept; a crop (the side of a square, or height and width) is taken in which no label covers more than `most` of what
    is not ignored (ten tries); it is flipped in half of the cases; brightness, contrast, saturation and hue are changed
    (`colour`); what lies beyond the image is the mean colour and ignored.
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
        ignore_index: int = 255,
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
            ("most", most, is_number(most) and most > 0, "a share above 0; 1 switches it off"),
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
        """Image (H, W, 3) uint8 and mask (H, W), cropped; the same `number` gives the same crop in any process.

        Of several masks (H, W, K) the first decides which crops are varied.
        """
        self.steps.set_random_seed(int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]))
        result = self.steps(image=image, mask=mask)
        return result["image"], result["mask"]
