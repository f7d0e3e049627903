"""The label stage against the textbook way: everything at full size, then a decision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.largest import Largest
from torch import Tensor

from maskclip.inference.labels import SOFT, Rule, View, label_map
from maskclip.inference.resampling import resample, windows

COVERED, SEEN, SIZE = (96, 144), (90, 131), (77, 120)


def coarse(classes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(classes, 6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def view_of(logits: Tensor, size: tuple[int, int] = SIZE) -> View:
    rows, columns = (
        resample(windows(logits.shape[axis + 1], COVERED[axis], SEEN[axis], [0], SEEN[axis]), size[axis]).to(logits) for axis in (0, 1)
    )
    return View(logits.permute(1, 0, 2).contiguous(), rows, columns)


def textbook(logits: Tensor, size: tuple[int, int] = SIZE) -> Tensor:
    """Logits (C, H, W): resized to what the grid covers, cut to the input, resized to the image."""
    whole = F.interpolate(logits[None], size=COVERED, mode="bilinear")[..., : SEEN[0], : SEEN[1]]
    return F.interpolate(whole, size=size, mode="bilinear")[0]


@pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 0.0), (torch.float32, 1e-5)])
@pytest.mark.parametrize("smooth", [False, True])
def test_labels_are_those_of_the_textbook(dtype: torch.dtype, share: float, smooth: bool) -> None:
    size, wrong, pixels = (200, 310), 0, 0
    for seed in range(4):
        logits = coarse(40, dtype, seed)
        if smooth:  # so that classes are left out
            logits = F.interpolate(logits[None, :, :2, :2], size=(6, 9), mode="bicubic")[0]
        labels = label_map([view_of(logits, size)], Rule(), 40, tile_values=40 * 400).labels
        wrong += int((labels != textbook(logits, size).argmax(0)).sum())
        pixels += labels.numel()
    assert wrong <= share * pixels


@pytest.mark.parametrize("tile_values", [1, 7 * 500, 7 * 9000, None])
@pytest.mark.parametrize(
    "rule",
    [
        Rule(),
        Rule(5.0, threshold=0.6),
        Rule(softmax=True),
        Rule(2.0, average="probabilities"),
        Rule(4.0, 0.5, [1, 3, 1, 2]),
        Rule(5.0, 0.3, area=0.15),
        Rule(4.0, 0.3, [1, 3, 1, 2], area=0.2),
        Rule(2.0, average="probabilities", area=0.15),
    ],
)
def test_tiles_do_not_show(rule: Rule, tile_values: int | None) -> None:
    views = [view_of(coarse(7, torch.float64, seed)) for seed in (0, 1)]
    whole = label_map(views, rule, 7, SOFT, top=2, tile_values=10**9)
    tiled = label_map(views, rule, 7, SOFT, top=2, tile_values=tile_values)
    assert torch.equal(tiled.labels, whole.labels)
    assert torch.equal(label_map(views, rule, 7, tile_values=tile_values).labels, whole.labels)  # nothing soft: other shortcuts
    assert tiled.top_classes is not None and whole.top_classes is not None
    for name in (*SOFT, "top_probabilities"):
        torch.testing.assert_close(getattr(tiled, name), getattr(whole, name))


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("counts", [None, [1, 3, 1, 2]])
@pytest.mark.parametrize("threshold", [None, 0.45])
def test_soft_results(average: Any, counts: list[int] | None, threshold: float | None) -> None:
    scale, maps = 3.0, [coarse(7, torch.float64, seed) for seed in (0, 1, 2)]
    full = [textbook(logits) for logits in maps]
    if average == "logits":
        words = (scale * torch.stack(full).mean(0)).softmax(0)
    else:
        words = torch.stack([(scale * logits).softmax(0) for logits in full]).mean(0)
    classes = words if counts is None else torch.stack([part.amax(0) for part in words.split(counts)])
    sure, order = classes.sort(0, descending=True)
    labels = order[0] if threshold is None else order[0].where(sure[0] >= threshold, torch.tensor(0))
    share = classes / classes.sum(0)
    found = label_map([view_of(logits) for logits in maps], Rule(scale, threshold, counts, average), len(classes), SOFT, top=3)
    assert torch.equal(found.labels, labels.to(torch.uint8))
    torch.testing.assert_close(found.confidence, sure[0])
    torch.testing.assert_close(found.margin, sure[0] - sure[1])
    torch.testing.assert_close(found.entropy, -(share * share.log()).sum(0))
    torch.testing.assert_close(found.top_probabilities, sure[:3])
    assert found.top_classes is not None and torch.equal(found.top_classes.long(), order[:3])
    if threshold is not None:
        assert 0.05 < (sure[0] < threshold).double().mean() < 0.95


BEST = [[1, 1, 1, 1, 1], [2, 2, 2, 2, 2], [3, 0, 0, 0, 1], [1, 1, 2, 2, 2]]
SECOND = [[2, 2, 2, 2, 2], [1, 1, 1, 1, 1], [2, 1, 1, 1, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("threshold", [None, 0.1])
@pytest.mark.parametrize(("area", "expected"), [(None, BEST), (0.1, [*BEST[:2], [2, 0, 0, 0, 1], BEST[3]]), (0.5, [[0] * 5] * 4)])
def test_the_area_threshold_on_a_case_by_hand(area: float | None, expected: list[list[int]], threshold: float | None) -> None:
    """Four classes, the first of two words, cosines times 65. Class 3 wins 1 pixel of the foreground's 17, classes 1 and 2 win 8 each."""
    first_word = torch.tensor([0, 2, 3, 4])
    cosines = torch.zeros(5, 4, 5)
    cosines.scatter_(0, first_word[torch.tensor(SECOND)][None], 0.02).scatter_(0, first_word[torch.tensor(BEST)][None], 0.03)
    view = View(cosines.permute(1, 0, 2).contiguous(), torch.eye(4), torch.eye(5))
    for tile_values in (None, 1):
        labels = label_map([view], Rule(65.0, threshold, [2, 1, 1, 1], area=area), 4, tile_values=tile_values).labels
        assert labels.tolist() == expected


@pytest.mark.parametrize(("area", "left"), [(0.28, {1, 2}), (0.29, {2})])
def test_a_class_that_covers_exactly_the_share_is_removed(area: float, left: set[int]) -> None:
    """29 of 100 pixels; 0.29 * 100 is less than 29 in floating point."""
    logits = torch.zeros(1, 3, 100)
    logits[0, 1, :29], logits[0, 2, 29:] = 1, 1
    labels = label_map([View(logits, torch.eye(1), torch.eye(100))], Rule(area=area), 3).labels
    assert set(labels[0, 29:].tolist()) == {2} and set(labels.unique().tolist()) - {0} == left


@pytest.mark.parametrize("counts", [None, [2, 3, 1, 4, 1, 1]])
@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_the_area_threshold_at_full_size(average: Any, threshold: float | None, counts: list[int] | None) -> None:
    maps, classes = [coarse(12, torch.float64, seed) for seed in (3, 4)], 12 if counts is None else len(counts)
    full = [textbook(logits) for logits in maps]
    if average == "logits":
        words = (4.0 * torch.stack(full).mean(0)).softmax(0)
    else:
        words = torch.stack([(4.0 * logits).softmax(0) for logits in full]).mean(0)
    before = words if counts is None else torch.stack([part.amax(0) for part in words.split(counts)])
    after, pixels = before.clone(), before.argmax(0).flatten().bincount(minlength=classes)
    for index in range(1, classes):
        after[index] *= pixels[index] > 0.1 * pixels[1:].sum()
    probability, labels = after.max(0)
    labels[probability < (threshold or 0)] = 0
    views = [view_of(logits) for logits in maps]
    with_area = label_map(views, Rule(4.0, threshold, counts, average, area=0.1), classes, SOFT, top=2, tile_values=5000)
    without = label_map(views, Rule(4.0, threshold, counts, average), classes, SOFT, top=2)
    assert torch.equal(with_area.labels, labels.to(torch.uint8)) and not torch.equal(with_area.labels, without.labels)
    for name in (*SOFT, "top_classes", "top_probabilities"):  # of the probabilities before the area threshold
        torch.testing.assert_close(getattr(with_area, name), getattr(without, name))


def test_removed_classes_and_a_lone_class() -> None:
    logits = coarse(5)
    logits[1:3] = -100.0
    found = label_map([view_of(logits)], Rule(100.0), 5, SOFT)
    assert torch.equal(found.labels, textbook(logits).argmax(0).to(torch.uint8))
    assert found.entropy is not None and found.entropy.isfinite().all()
    alone = label_map([view_of(logits[:1])], Rule(100.0), 1, SOFT, top=1)
    assert (alone.labels == 0).all() and (alone.confidence == 1).all() and (alone.margin == 1).all() and (alone.entropy == 0).all()


def test_labels_of_many_classes_have_more_bits() -> None:
    logits = coarse(300)
    logits[299] += 9
    labels = label_map([view_of(logits)], Rule(), 300).labels
    assert labels.dtype == torch.int32 and (labels == 299).all()


@pytest.mark.parametrize(
    "rule",
    [Rule(), Rule(9.0, threshold=0.5), Rule(9.0, average="probabilities"), Rule(9.0, 0.5, [2] * 30), Rule(9.0, 0.5, [2] * 30, area=0.1)],
)
def test_nothing_of_the_size_of_classes_times_pixels_is_made(rule: Rule) -> None:
    size, classes, tile = (700, 900), 60, 2**16
    views = [view_of(coarse(classes, seed=seed), size) for seed in (0, 1)]
    with Largest() as largest:
        label_map(views, rule, classes, SOFT, top=2, tile_values=tile)
    assert largest.values <= 2 * size[0] * size[1]  # the top classes; a tile with its two views is less
    with Largest() as largest:
        label_map(views, replace(rule, threshold=None), classes, tile_values=tile)
    assert largest.values <= size[0] * size[1]


def test_neither_autocast_nor_reduced_products_reach_the_labels() -> None:
    view = view_of(coarse(30))
    expected = label_map([view], Rule(10.0), 30, SOFT)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = label_map([view], Rule(10.0), 30, SOFT)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found.labels, expected.labels) and torch.equal(found.confidence, expected.confidence)  # type: ignore[arg-type]
