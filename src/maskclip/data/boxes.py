"""Random boxes of CutMix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def random_boxes(count: int, size: tuple[int, int], probability: float, random: np.random.Generator) -> Tensor:
    """Boxes (`count`, 4), top, left, bottom and right, in images of `size` (height, width); empty with 1 - `probability`.

    A box covers a uniform share of 10 to 50 % of the image, with a ratio of its sides to those of the image from 1/2 to 2.
    """
    boxes = torch.zeros(count, 4, dtype=torch.long)
    for index in np.flatnonzero(random.random(count) < probability):
        share, ratio = random.uniform(0.1, 0.5), 2 ** random.uniform(-1, 1)
        sides = [min(side, round(side * (share * factor) ** 0.5)) for side, factor in zip(size, (ratio, 1 / ratio), strict=True)]
        corner = [int(random.integers(0, whole - side + 1)) for whole, side in zip(size, sides, strict=True)]
        boxes[index] = torch.tensor([*corner, *(start + side for start, side in zip(corner, sides, strict=True))])
    return boxes
