"""Label maps against the direct computation: all logits at full size, then the decision."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from support.largest import Largest
from torch import Tensor

from maskclip.inference.labels import SOFT, Rule, label_map
from maskclip.inference.resampling import resample, windows
from maskclip.inference.tiles import CoarseLogits

COVERED, INPUT, SIZE = (96, 144), (90, 131), (77, 120)


def random_logits(classes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(classes, 6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def view_of(logits: Tensor, size: tuple[int, int] = SIZE) -> CoarseLogits:
    rows, columns = (
        resample(windows(logits.shape[axis + 1], COVERED[axis], INPUT[axis], [0], INPUT[axis]), size[axis]).to(logits) for axis in (0, 1)
    )
    return CoarseLogits(logits.permute(1, 0, 2).contiguous(), rows, columns)


def upsampled(logits: Tensor, size: tuple[int, int] = SIZE) -> Tensor:
    """Logits (C, H, W): resized to the covered size, cropped to the input size, resized to the image size."""
    cropped = F.interpolate(logits[None], size=COVERED, mode="bilinear")[..., : INPUT[0], : INPUT[1]]
    return F.interpolate(cropped, size=size, mode="bilinear")[0]


def class_probabilities(maps: list[Tensor], rule: Rule) -> Tensor:
    """Probabilities of the classes (C, H, W) at full size."""
    full = [upsampled(logits) for logits in maps]
    if rule.average == "logits":
        words = (rule.scale * torch.stack(full).mean(0)).softmax(0)
    else:
        words = torch.stack([(rule.scale * logits).softmax(0) for logits in full]).mean(0)
    return words if rule.counts is None else torch.stack([part.amax(0) for part in words.split(list(rule.counts))])


@pytest.mark.parametrize(("dtype", "max_share"), [(torch.float64, 0.0), (torch.float32, 1e-5)])
@pytest.mark.parametrize("smooth", [False, True])
def test_labels_equal_the_argmax_at_full_size(dtype: torch.dtype, max_share: float, smooth: bool) -> None:
    size, wrong, pixels = (150, 230), 0, 0
    for seed in range(3):
        logits = random_logits(40, dtype, seed)
        if smooth:  # many classes cannot win in a tile
            logits = F.interpolate(logits[None, :, :2, :2], size=(6, 9), mode="bicubic")[0]
        labels = label_map([view_of(logits, size)], Rule(), 40, tile_values=40 * 400).labels
        wrong += int((labels != upsampled(logits, size).argmax(0)).sum())
        pixels += labels.numel()
    assert wrong <= max_share * pixels


RULES = [
    Rule(),
    Rule(5.0, threshold=0.6),
    Rule(softmax=True),
    Rule(2.0, average="probabilities"),
    Rule(4.0, 0.5, [1, 3, 1, 2]),
    Rule(5.0, 0.3, area=0.15),
    Rule(4.0, 0.3, [1, 3, 1, 2], area=0.2),
    Rule(2.0, average="probabilities", area=0.15),
]


@pytest.mark.parametrize("rule", RULES)
def test_the_tile_size_does_not_change_results(rule: Rule) -> None:
    views = [view_of(random_logits(7, torch.float64, seed), (21, 150)) for seed in (0, 1)]
    whole = label_map(views, rule, 7, SOFT, top=2, tile_values=10**9)
    for tile_values in (1, 7 * 500, None):
        tiled = label_map(views, rule, 7, SOFT, top=2, tile_values=tile_values)
        assert torch.equal(tiled.labels, whole.labels)
        assert torch.equal(label_map(views, rule, 7, tile_values=tile_values).labels, whole.labels)  # labels alone take shortcuts
        for name in (*SOFT, "top_probabilities"):
            torch.testing.assert_close(getattr(tiled, name), getattr(whole, name))


@pytest.mark.parametrize(
    "rule",
    [
        Rule(3.0, threshold, counts, average)
        for average, counts, threshold in product(("logits", "probabilities"), (None, [1, 3, 1, 2]), (None, 0.45))
    ],
)
def test_outputs_describe_the_probabilities(rule: Rule) -> None:
    maps = [random_logits(7, torch.float64, seed) for seed in (0, 1, 2)]
    probabilities = class_probabilities(maps, rule)
    best, order = probabilities.sort(0, descending=True)
    labels = order[0] if rule.threshold is None else order[0].where(best[0] >= rule.threshold, torch.tensor(0))
    shares = probabilities / probabilities.sum(0)
    prediction = label_map([view_of(logits) for logits in maps], rule, len(probabilities), SOFT, top=3)
    assert torch.equal(prediction.labels, labels.to(torch.uint8))
    torch.testing.assert_close(prediction.confidence, best[0])
    torch.testing.assert_close(prediction.margin, best[0] - best[1])
    torch.testing.assert_close(prediction.entropy, -(shares * shares.log()).sum(0))
    torch.testing.assert_close(prediction.top_probabilities, best[:3])
    assert prediction.top_classes is not None and torch.equal(prediction.top_classes.long(), order[:3])
    if rule.threshold is not None:
        assert 0.05 < (best[0] < rule.threshold).double().mean() < 0.95


BEST = [[1, 1, 1, 1, 1], [2, 2, 2, 2, 2], [3, 0, 0, 0, 1], [1, 1, 2, 2, 2]]
SECOND = [[2, 2, 2, 2, 2], [1, 1, 1, 1, 1], [2, 1, 1, 1, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("threshold", [None, 0.1])
@pytest.mark.parametrize(("area", "expected"), [(None, BEST), (0.1, [*BEST[:2], [2, 0, 0, 0, 1], BEST[3]]), (0.5, [[0] * 5] * 4)])
def test_the_area_threshold_on_a_small_example(area: float | None, expected: list[list[int]], threshold: float | None) -> None:
    """Four classes, the first with two words, cosines times 65. Of 17 foreground pixels, classes 1 and 2 win 8 each, class 3 wins 1."""
    first_word = torch.tensor([0, 2, 3, 4])
    cosines = torch.zeros(5, 4, 5)
    cosines.scatter_(0, first_word[torch.tensor(SECOND)][None], 0.02).scatter_(0, first_word[torch.tensor(BEST)][None], 0.03)
    view = CoarseLogits(cosines.permute(1, 0, 2).contiguous(), torch.eye(4), torch.eye(5))
    for tile_values in (None, 1):
        labels = label_map([view], Rule(65.0, threshold, [2, 1, 1, 1], area=area), 4, tile_values=tile_values).labels
        assert labels.tolist() == expected


@pytest.mark.parametrize(("area", "remaining"), [(0.28, {1, 2}), (0.29, {2})])
def test_a_class_that_covers_exactly_the_share_is_removed(area: float, remaining: set[int]) -> None:
    """29 of 100 pixels; 0.29 * 100 < 29 in floating point."""
    logits = torch.zeros(1, 3, 100)
    logits[0, 1, :29], logits[0, 2, 29:] = 1, 1
    labels = label_map([CoarseLogits(logits, torch.eye(1), torch.eye(100))], Rule(area=area), 3).labels
    assert set(labels[0, 29:].tolist()) == {2} and set(labels.unique().tolist()) - {0} == remaining


@pytest.mark.parametrize(
    "rule",
    [
        Rule(4.0, threshold, counts, average, area=0.1)
        for average, threshold, counts in product(("logits", "probabilities"), (None, 0.3), (None, [2, 3, 1, 4, 1, 1]))
    ],
)
def test_the_area_threshold_at_full_size(rule: Rule) -> None:
    maps = [random_logits(12, torch.float64, seed) for seed in (3, 4)]
    before = class_probabilities(maps, rule)
    after, pixels = before.clone(), before.argmax(0).flatten().bincount(minlength=len(before))
    for index in range(1, len(before)):
        after[index] *= pixels[index] > 0.1 * pixels[1:].sum()
    probability, labels = after.max(0)
    labels[probability < (rule.threshold or 0)] = 0
    views = [view_of(logits) for logits in maps]
    with_area = label_map(views, rule, len(before), SOFT, top=2, tile_values=5000)
    without = label_map(views, replace(rule, area=None), len(before), SOFT, top=2)
    assert torch.equal(with_area.labels, labels.to(torch.uint8)) and not torch.equal(with_area.labels, without.labels)
    for name in (*SOFT, "top_classes", "top_probabilities"):  # describe the probabilities before the area threshold
        torch.testing.assert_close(getattr(with_area, name), getattr(without, name))


def test_very_small_logits_and_a_single_class() -> None:
    logits = random_logits(5)
    logits[1:3] = -100.0
    prediction = label_map([view_of(logits)], Rule(100.0), 5, SOFT)
    assert torch.equal(prediction.labels, upsampled(logits).argmax(0).to(torch.uint8))
    assert prediction.entropy is not None and prediction.entropy.isfinite().all()
    single = label_map([view_of(logits[:1])], Rule(100.0), 1, SOFT, top=1)
    assert (single.labels == 0).all() and (single.confidence == 1).all() and (single.margin == 1).all() and (single.entropy == 0).all()


def test_labels_of_more_than_256_classes_are_int32() -> None:
    logits = random_logits(300)
    logits[299] += 9
    labels = label_map([view_of(logits)], Rule(), 300).labels
    assert labels.dtype == torch.int32 and (labels == 299).all()


@pytest.mark.parametrize(
    "rule",
    [Rule(), Rule(9.0, threshold=0.5), Rule(9.0, average="probabilities"), Rule(9.0, 0.5, [2] * 10), Rule(9.0, 0.5, [2] * 10, area=0.1)],
)
def test_no_tensor_has_the_size_of_classes_times_pixels(rule: Rule) -> None:
    size, classes, tile_values = (250, 300), 20, 2**14
    views = [view_of(random_logits(classes, seed=seed), size) for seed in (0, 1)]
    with Largest() as largest:
        label_map(views, rule, classes, SOFT, top=2, tile_values=tile_values)
    assert largest.values <= 2 * size[0] * size[1]  # the two best classes; a tile of both views is smaller
    with Largest() as largest:
        label_map(views, replace(rule, threshold=None), classes, tile_values=tile_values)
    assert largest.values <= size[0] * size[1]


def test_labels_are_computed_in_full_precision() -> None:
    view = view_of(random_logits(30))
    expected = label_map([view], Rule(10.0), 30, SOFT)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            prediction = label_map([view], Rule(10.0), 30, SOFT)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(prediction.labels, expected.labels)
    torch.testing.assert_close(prediction.confidence, expected.confidence, atol=0, rtol=0)
