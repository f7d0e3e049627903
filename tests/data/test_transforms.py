"""Augmentation against images whose right answer is known."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from maskclip.data.transforms import MEAN_COLOUR, PhotometricDistortion, TrainTransform, VariedCrop

STILL: dict[str, Any] = {"scale": (1.0, 1.0), "colour": False, "flip": 0.0, "most": 1.0}


def picture() -> tuple[np.ndarray, np.ndarray]:
    """An image whose red channel is ten times its mask, so that any misalignment shows."""
    mask = np.random.default_rng(0).integers(0, 20, (40, 60), dtype=np.uint8).repeat(3, 0).repeat(3, 1)
    return np.stack([mask * 10, mask, mask], axis=2), mask


def test_image_and_mask_stay_aligned_to_the_pixel() -> None:
    image, mask = picture()
    for number in range(20):
        crop, labels = TrainTransform(64, scale=(1.0, 1.0), colour=False)(image, mask, number)
        assert crop.shape == (64, 64, 3)
        assert np.array_equal(crop[..., 0], labels * 10)


def test_resizing_keeps_image_and_mask_together() -> None:
    """A vertical edge at a third of the width is at a third of the width afterwards, in both."""
    mask = np.zeros((90, 90), np.uint8)
    mask[:, 30:] = 1
    image = np.repeat(mask[..., None] * 200, 3, axis=2)
    crop, labels = TrainTransform(180, **{**STILL, "scale": (2.0, 2.0)})(image, mask, 0)
    assert (labels[:, :60] == 0).all() and (labels[:, 60:] == 1).all()
    assert (crop[:, :59] == 0).all() and (crop[:, 61:] == 200).all()


def test_the_number_of_the_draw_decides_the_crop() -> None:
    image, mask = picture()
    one, other = TrainTransform(64, seed=1), TrainTransform(64, seed=1)
    other(image, mask, 5)  # history must not matter
    first, again = one(image, mask, 9), other(image, mask, 9)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], one(image, mask, 10)[0])
    assert not np.array_equal(first[0], TrainTransform(64, seed=2)(image, mask, 9)[0])


def test_what_lies_beyond_the_image_is_the_mean_colour_and_ignored() -> None:
    image, mask = picture()
    crop, labels = TrainTransform(256, **STILL)(image, mask, 0)
    assert (labels[120:] == 255).all() and (labels[:, 180:] == 255).all()
    assert np.array_equal(labels[:120, :180], mask) and np.array_equal(crop[:120, :180], image)
    assert (crop[120:] == MEAN_COLOUR).all() and (crop[:, 180:] == MEAN_COLOUR).all()


def test_oblong_crops_and_masks_of_16_bits() -> None:
    image, mask = picture()
    crop, labels = TrainTransform((50, 200), **STILL, ignore_index=65535)(image, mask.astype(np.uint16) + 300, 0)
    assert crop.shape == (50, 200, 3) and labels.dtype == np.uint16
    assert (labels[:, 180:] == 65535).all() and set(np.unique(labels[:, :180])) <= set(range(300, 320))


def test_ratios_are_uniform() -> None:
    image, mask = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), np.uint8)
    transform = TrainTransform(400, colour=False, most=1.0)
    sides = [(transform(image, mask, number)[1] != 255).any(1).sum() for number in range(200)]
    assert 50 <= min(sides) < 60 and 190 < max(sides) <= 200 and 115 < np.mean(sides) < 135


def test_flipping() -> None:
    image, mask = picture()
    flipped = TrainTransform((120, 180), **{**STILL, "flip": 1.0})(image, mask, 0)
    assert np.array_equal(flipped[0], image[:, ::-1]) and np.array_equal(flipped[1], mask[:, ::-1])
    half = [np.array_equal(TrainTransform((120, 180), **{**STILL, "flip": 0.5})(image, mask, n)[1], mask) for n in range(100)]
    assert 30 < sum(half) < 70


def test_crops_hold_more_than_one_label_where_ten_tries_find_one() -> None:
    """A stripe of another label covers a third of the image: crops without it are drawn again."""
    mask = np.zeros((60, 300), np.uint8)
    mask[:, 100:200] = 1
    mask[:10] = 255  # does not count
    image = np.zeros((60, 300, 3), np.uint8)

    def share(most: float) -> list[float]:
        crops = [TrainTransform(60, **{**STILL, "most": most})(image, mask, n)[1] for n in range(100)]
        return [max(np.mean(crop[10:] == 0), np.mean(crop[10:] == 1)) for crop in crops]

    assert sum(value > 0.75 for value in share(1.0)) > 50  # as they come
    assert sum(value > 0.75 for value in share(0.75)) < 5


def test_an_image_of_one_label_is_cropped_all_the_same() -> None:
    crop, labels = TrainTransform(32, **{**STILL, "most": 0.75})(np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 3, np.uint8), 0)
    assert crop.shape == (32, 32, 3) and (labels == 3).all()


def test_a_label_may_cover_up_to_three_quarters() -> None:
    crop = VariedCrop((4, 4), 0.75, 255)
    quarter = np.zeros((4, 4), np.uint8)
    quarter[0] = 1  # the other label covers exactly 0.75, which is not below
    assert not crop.is_varied(quarter)
    quarter[1, 0] = 1
    assert crop.is_varied(quarter)
    assert not crop.is_varied(np.full((4, 4), 255, np.uint8))


def distorted(image: np.ndarray, **changes: Any) -> np.ndarray:
    none = {"brightness": None, "contrast": None, "saturation": None, "hue": None, "contrast_first": False}
    return PhotometricDistortion().apply(image, **{**none, **changes})


def test_colours_by_hand() -> None:
    image = np.array([[[100, 50, 0], [250, 128, 3]]], np.uint8)
    assert np.array_equal(distorted(image), image)
    assert distorted(image, brightness=-20).tolist() == [[[80, 30, 0], [230, 108, 0]]]
    assert distorted(image, brightness=20.9).tolist() == [[[120, 70, 20], [255, 148, 23]]]  # cut off, not rounded
    assert distorted(image, contrast=1.5).tolist() == [[[150, 75, 0], [255, 192, 4]]]
    assert distorted(image, saturation=0.0).tolist() == [[[100, 100, 100], [250, 250, 250]]]
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert distorted(red, hue=60).tolist() == [[[0, 255, 0]]]  # 60 steps of two degrees
    assert distorted(red, hue=-60).tolist() == [[[0, 0, 255]]]
    grey = np.full((2, 2, 3), 77, np.uint8)
    assert np.array_equal(distorted(grey, hue=17, saturation=1.4), grey)


def test_contrast_comes_before_or_behind_the_hue() -> None:
    image = np.array([[[200, 150, 100]]], np.uint8)
    first, last = (distorted(image, contrast=1.5, saturation=1.5, contrast_first=order) for order in (True, False))
    hsv = lambda x: cv2.cvtColor(x, cv2.COLOR_RGB2HSV)  # noqa: E731
    assert hsv(first).tolist() != hsv(last).tolist()


def test_each_colour_change_happens_in_half_of_the_cases_within_its_range() -> None:
    step = PhotometricDistortion()
    step.set_random_seed(0)
    draws = [step.get_params() for _ in range(400)]
    for name, low, high in (("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5), ("hue", -18, 17)):
        values = [draw[name] for draw in draws if draw[name] is not None]
        assert 160 < len(values) < 240, name
        width = high - low
        assert low <= min(values) < low + 0.05 * width and high - 0.05 * width < max(values) <= high, name
    assert 160 < sum(draw["contrast_first"] for draw in draws) < 240
