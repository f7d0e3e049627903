"""Scores against IoUs computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from maskclip.evaluation.scores import Confusion, scores


def by_hand(truth: list[list[int]], predicted: list[list[int]], classes: int) -> torch.Tensor:
    matrix = torch.zeros(classes, classes, dtype=torch.long)
    for row_t, row_p in zip(truth, predicted, strict=True):
        for t, p in zip(row_t, row_p, strict=True):
            if t != 255:
                matrix[t, p] += 1
    return matrix


TRUTH, PREDICTED = [[0, 0, 1, 1], [2, 2, 255, 0]], [[0, 1, 1, 1], [2, 0, 3, 0]]


def test_confusion_by_hand() -> None:
    confusion = Confusion(4)
    confusion.update(torch.tensor([PREDICTED], dtype=torch.uint8), torch.tensor([TRUTH]))
    assert torch.equal(confusion.compute(), by_hand(TRUTH, PREDICTED, 4))


def test_scores_by_hand() -> None:
    result = scores(by_hand(TRUTH, PREDICTED, 4), unseen=[2])
    # class 0: 2 correct of 3 true and 3 predicted -> 2/4; class 1: 2/3; class 2: 1/2; class 3 occurs nowhere
    assert result.iou[:3].tolist() == pytest.approx([2 / 4, 2 / 3, 1 / 2])
    assert math.isnan(result.iou[3])
    assert result.miou == pytest.approx((2 / 4 + 2 / 3 + 1 / 2) / 3)
    assert result.pixel_accuracy == pytest.approx(5 / 7)
    assert result.seen == pytest.approx((2 / 4 + 2 / 3) / 2)
    assert result.unseen == pytest.approx(1 / 2)
    assert result.harmonic == pytest.approx(2 * (7 / 12) * (1 / 2) / (7 / 12 + 1 / 2))


def test_miou_is_not_the_mean_over_images() -> None:
    # the mean over images would give both images the same weight
    both = Confusion(2)
    both.update(torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 0, 0]]))
    both.update(torch.tensor([[1, 1, 1, 1]]), torch.tensor([[1, 1, 1, 1]]))
    assert scores(both.compute()).miou == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_without_unseen_classes_and_without_pixels() -> None:
    result = scores(by_hand(TRUTH, PREDICTED, 4))
    assert math.isnan(result.unseen) and math.isnan(result.harmonic)
    assert result.seen == result.miou
    assert math.isnan(scores(torch.zeros(2, 2, dtype=torch.long)).pixel_accuracy)


def test_harmonic_mean_without_correct_pixels_is_zero() -> None:
    assert scores(torch.tensor([[0, 5], [5, 0]]), unseen=[1]).harmonic == 0


def test_counts_are_exact_for_large_data_sets() -> None:
    confusion = Confusion(2)
    confusion.confmat += torch.tensor([[2**40, 0], [0, 0]])
    confusion.update(torch.tensor([0]), torch.tensor([0]))
    assert confusion.compute()[0, 0].item() == 2**40 + 1
