"""Augmentation for training. The only module that knows albumentations."""

from __future__ import annotations

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version on import

import albumentations as A
import numpy as np

from maskclip.errors import InputError
from maskclip.functional import IGNORE_INDEX


class TrainTransform:
    """Random scale, crop, flip and colours of an image with its mask; a function of the seed and the number of the draw.

    `size` is the side to which the image is first brought (`side` "short" or "long", None: its own), `scale` the range
    by which that is multiplied, `crop` the side of the square that comes out. What lies beyond the image is black and
    ignored. Strength of the colour jitter as in the authors' photometric distortion (brightness 32/255, contrast
    and saturation 0.5-1.5, hue 18 degrees).
    """

    def __init__(
        self,
        crop: int,
        size: int | None = None,
        side: str = "short",
        scale: tuple[float, float] = (0.5, 2.0),
        colour: bool = True,
        seed: int = 0,
    ) -> None:
        sides = {"short": A.SmallestMaxSize, "long": A.LongestMaxSize}
        if side not in sides:
            raise InputError(f"data.augmentation.side={side!r}: choose short or long")
        first = sides[side]
        steps: list[A.BasicTransform] = [] if size is None else [first(max_size=size)]
        steps.append(A.RandomScale(scale_limit=(scale[0] - 1, scale[1] - 1), p=1.0))
        steps.append(A.PadIfNeeded(crop, crop, position="top_left", fill=0, fill_mask=IGNORE_INDEX))
        steps.append(A.RandomCrop(crop, crop))
        steps.append(A.HorizontalFlip(p=0.5))
        if colour:
            steps.append(A.ColorJitter(brightness=32 / 255, contrast=0.5, saturation=0.5, hue=18 / 360, p=0.8))
        self.steps = A.Compose(steps)
        self.seed = seed

    def __call__(self, image: np.ndarray, mask: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 and mask (H, W) uint8, cropped; the same `number` gives the same crop in any process."""
        self.steps.set_random_seed(int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]))
        result = self.steps(image=image, mask=mask)
        return result["image"], result["mask"]
