"""The boxes of CutMix."""

from __future__ import annotations

import numpy as np
import torch

from maskclip.data.boxes import random_boxes


def test_boxes_lie_inside_and_cover_the_stated_share() -> None:
    size = (60, 100)
    boxes = random_boxes(500, size, 1.0, np.random.default_rng(0))
    top, left, bottom, right = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= 60).all() and (right <= 100).all()
    share = ((bottom - top) * (right - left)) / 6000
    assert 0.09 < share.min() < 0.15 and 0.45 < share.max() < 0.52 and 0.27 < share.mean() < 0.33
    assert len(torch.unique(top)) > 20


def test_the_probability_is_that_of_a_box() -> None:
    boxes = random_boxes(2000, (40, 40), 0.3, np.random.default_rng(1))
    empty = (boxes == 0).all(dim=1)
    assert 0.66 < empty.float().mean() < 0.74
    assert (random_boxes(8, (40, 40), 0.0, np.random.default_rng(1)) == 0).all()
