"""The equations against tables computed by hand, loops and identities."""

from __future__ import annotations

import math

import pytest
import torch
from support.largest import Largest
from torch import Tensor

from maskclip.functional import (
    IGNORE_INDEX,
    REMOVED,
    UNLABELLED,
    best_word,
    cosine_logits,
    cutmix,
    key_smoothing,
    mean_cosine,
    mean_over_pixels,
    prompt_denoising,
    pseudo_labels,
    resample_position_embedding,
    stored_labels,
    upsample_logits,
    vote_logits,
)


def logits_of(probabilities: list[list[float]]) -> Tensor:
    """Logits (1, C, 1, N) whose softmax at scale 100 gives the probabilities, listed by position."""
    return (torch.tensor(probabilities).log() / 100).T[None, :, None, :]


def test_cosine_logits_by_hand() -> None:
    features = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).T[None, :, None, :]  # positions (3, 4) and (0, 2)
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    expected = torch.tensor([[0.6, 0.8, 1.0], [0.0, 1.0, 0.8]]).T[None, :, None, :]
    torch.testing.assert_close(cosine_logits(features, text), expected)


def test_prompt_denoising_removes_classes_below_the_threshold() -> None:
    # three positions and classes: the largest probabilities are 0.7, 0.49 and 0.1
    logits = logits_of([[0.7, 0.2, 0.1], [0.46, 0.49, 0.05], [0.6, 0.3, 0.1]])
    before = logits.clone()
    result = prompt_denoising(logits, 0.5)
    torch.testing.assert_close(result[:, 0], logits[:, 0])
    assert (result[:, 1:] == REMOVED).all()
    assert torch.equal(logits, before)


def test_prompt_denoising_keeps_all_classes_if_none_reaches_the_threshold() -> None:
    logits = logits_of([[0.4, 0.3, 0.3], [0.34, 0.33, 0.33]])
    assert torch.equal(prompt_denoising(logits, 0.5), logits)


def test_prompt_denoising_of_the_released_code_removes_all() -> None:
    logits = logits_of([[0.4, 0.3, 0.3], [0.34, 0.33, 0.33]])
    assert (prompt_denoising(logits, 0.5, keep_if_all_unsure=False) == REMOVED).all()


def test_best_word_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.3, 0.3], [-0.4, 0.8]])[None, :, None, :]  # four words, two positions
    before = logits.clone()
    assert best_word(logits, [1, 2, 1])[0, :, 0].tolist() == torch.tensor([[0.1, 0.9], [0.5, 0.3], [-0.4, 0.8]]).tolist()
    assert best_word(logits, [4])[0, :, 0].tolist() == torch.tensor([[0.5, 0.9]]).tolist()
    assert best_word(logits, [1, 1, 1, 1]) is logits
    assert torch.equal(logits, before)


def test_best_word_passes_the_gradient_to_the_best_word() -> None:
    logits = torch.tensor([0.1, 0.7, 0.3]).view(1, 3, 1, 1).requires_grad_()
    best_word(logits, [2, 1])[:, 0].sum().backward()
    assert logits.grad is not None and logits.grad.flatten().tolist() == [0, 1, 0]


def test_prompt_denoising_off_and_per_image() -> None:
    logits = torch.cat([logits_of([[0.9, 0.1]]), logits_of([[0.1, 0.9]])])
    assert torch.equal(prompt_denoising(logits, 0.0), logits)
    removed = prompt_denoising(logits, 0.5) == REMOVED
    assert removed[:, :, 0, 0].tolist() == [[False, True], [True, False]]


def test_key_smoothing_by_hand() -> None:
    # keys (1, 0), (0, 1), (0.6, 0.8): cosines between them are 0, 0.6 and 0.8
    logits = logits_of([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    keys = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]]).T[None, :, None, :]
    expected = torch.tensor(
        [[0.9 + 0.6 * 0.5, 0.1 + 0.6 * 0.5], [0.2 + 0.8 * 0.5, 0.8 + 0.8 * 0.5], [0.6 * 0.9 + 0.8 * 0.2 + 0.5, 0.06 + 0.64 + 0.5]]
    )
    torch.testing.assert_close(key_smoothing(logits, keys)[0, :, 0].T, expected)


def test_key_smoothing_skips_confident_positions() -> None:
    logits = logits_of([[0.9, 0.1], [0.6, 0.4]])
    keys = torch.ones(1, 3, 1, 2)
    result = key_smoothing(logits, keys, threshold=0.8)[0, :, 0].T
    torch.testing.assert_close(result, torch.tensor([[0.9, 0.1], [1.5, 0.5]]))


def test_key_smoothing_with_equal_keys_is_constant() -> None:
    logits = torch.randn(2, 5, 4, 3) / 50
    result = key_smoothing(logits, torch.ones(2, 8, 4, 3))
    expected = (100 * logits).softmax(1).sum((2, 3), keepdim=True).expand_as(logits)
    torch.testing.assert_close(result, expected)


def test_key_smoothing_equals_the_double_sum() -> None:
    logits, keys = torch.randn(1, 3, 2, 3, dtype=torch.float64) / 50, torch.randn(1, 4, 2, 3, dtype=torch.float64)
    p, k = (100 * logits).softmax(1).flatten(2)[0], keys.flatten(2)[0]
    expected = torch.zeros_like(p)
    for i in range(6):
        for j in range(6):
            cosine = sum(k[d, i] * k[d, j] for d in range(4)) / math.sqrt(sum(k[:, i] ** 2) * sum(k[:, j] ** 2))
            expected[:, i] += cosine * p[:, j]
    torch.testing.assert_close(key_smoothing(logits, keys).flatten(2)[0], expected)


def test_key_smoothing_with_channels_normalised_over_positions() -> None:
    logits, keys = torch.randn(1, 3, 2, 3, dtype=torch.float64) / 50, torch.randn(1, 4, 2, 3, dtype=torch.float64)
    p, k = (100 * logits).softmax(1).flatten(2)[0], keys.flatten(2)[0]
    unit = k / (k**2).sum(1, keepdim=True).sqrt()  # every channel over the six positions
    torch.testing.assert_close(key_smoothing(logits, keys, unit="channels").flatten(2)[0], p @ (unit.T @ unit))


def test_refinements_do_not_change_their_arguments() -> None:
    logits, keys = torch.randn(1, 3, 4, 4) / 50, torch.randn(1, 6, 4, 4)
    before = logits.clone(), keys.clone()
    vote_logits(key_smoothing(prompt_denoising(logits, 0.9), keys, 0.6))
    assert torch.equal(logits, before[0]) and torch.equal(keys, before[1])


def test_key_smoothing_needs_no_matrix_of_positions() -> None:
    """With a million positions the full matrix would have 10^12 values; the keys have 64 x 10^6."""
    with torch.device("meta"), Largest() as largest:
        key_smoothing(torch.empty(1, 10, 1000, 1000), torch.empty(1, 64, 1000, 1000), threshold=0.5)
    assert largest.values == 64 * 1000 * 1000


def test_vote_logits_keep_the_best_class() -> None:
    logits, keys = torch.randn(2, 5, 4, 3) / 30, torch.randn(2, 8, 4, 3)
    votes = key_smoothing(logits, keys, threshold=0.5)
    result = vote_logits(votes)
    clear = votes.clamp(min=0).amax(1) > 1e-3 * votes.clamp(min=0).sum(1)
    assert clear.any() and torch.equal(result.argmax(1)[clear], votes.argmax(1)[clear])
    by_hand = vote_logits(torch.tensor([6.0, 2.0, -1.0])[None, :, None, None], scale=10, floor=0.1).flatten()
    torch.testing.assert_close(by_hand, torch.tensor([0.75, 0.25, 0.1]).log() / 10)


def test_negative_votes_keep_their_best_class() -> None:
    votes = torch.tensor([[-0.2, -0.1, -0.4], [-3.0, -2.0, -1.0], [0.0, -1.0, -2.0]]).T[None, :, None, :]
    assert vote_logits(votes).argmax(1).flatten().tolist() == [1, 2, 0]


def test_positions_that_are_not_smoothed_keep_their_logits() -> None:
    logits = torch.randn(1, 3, 2, 2) / 100
    result = vote_logits(key_smoothing(logits, torch.randn(1, 4, 2, 2), threshold=0.0))
    difference = result - logits
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))


def test_pseudo_labels_by_hand() -> None:
    labels = torch.tensor([[[3, IGNORE_INDEX, UNLABELLED, UNLABELLED]]])
    scores = torch.tensor([[0.9, 0.9, 0.2, 0.6], [0.1, 0.1, 0.7, 0.3]])[None, :, None, :]
    classes = torch.tensor([5, 8])
    assert pseudo_labels(labels, scores.max(dim=1), classes).tolist() == [[[3, IGNORE_INDEX, 8, 5]]]
    assert pseudo_labels(labels, scores.max(dim=1), classes, confidence=0.65).tolist() == [[[3, IGNORE_INDEX, 8, IGNORE_INDEX]]]
    assert labels.tolist() == [[[3, IGNORE_INDEX, UNLABELLED, UNLABELLED]]]


def test_the_mean_over_pixels_by_hand() -> None:
    labels = torch.tensor([[[3, IGNORE_INDEX], [0, 1]]])
    total = torch.tensor(6.0)
    assert mean_over_pixels(total, labels) == 2
    assert mean_over_pixels(total, labels, over="all") == 1.5
    assert mean_over_pixels(total, labels, valid=torch.tensor(12.0)) == 0.5
    assert mean_over_pixels(torch.tensor(0.0), torch.full((1, 2, 2), IGNORE_INDEX)) == 0


def test_upsampling_crops_the_padding() -> None:
    columns = torch.arange(4.0).expand(1, 1, 2, 4)  # a ramp over 4 cells of 8 pixels; the image is 27 pixels wide
    result = upsample_logits(columns, (16, 32), (13, 27))
    assert result.shape == (1, 1, 13, 27)
    expected = ((torch.arange(27) + 0.5) / 8 - 0.5).clamp(0, 3)  # pixel centres, in cells
    torch.testing.assert_close(result[0, 0, 5], expected)


def test_mean_cosine_by_hand() -> None:
    features = torch.tensor([[3.0, 0.0], [4.0, 2.0]]).view(1, 2, 1, 2)  # (3, 4) and (0, 2)
    targets = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 2, 1, 2)  # (1, 0) twice
    assert mean_cosine(features, targets).item() == pytest.approx((0.6 + 0.0) / 2)


def test_position_embedding_keeps_native_grid_and_class_token() -> None:
    embedding = torch.randn(1 + 9, 4)
    assert resample_position_embedding(embedding, (3, 3), (3, 3)) is embedding
    larger = resample_position_embedding(embedding, (3, 3), (5, 4))
    assert larger.shape == (1 + 20, 4)
    assert torch.equal(larger[0], embedding[0])


@pytest.mark.parametrize("grid", [(1, 1), (2, 7)])
def test_a_constant_position_embedding_stays_constant(grid: tuple[int, int]) -> None:
    embedding = torch.ones(1 + 9, 2)
    torch.testing.assert_close(resample_position_embedding(embedding, (3, 3), grid), torch.ones(1 + grid[0] * grid[1], 2))


def test_stored_labels_by_hand() -> None:
    labels = torch.tensor([[[3, IGNORE_INDEX, UNLABELLED, UNLABELLED, UNLABELLED]]])
    stored = torch.tensor([[[5, 5, 5, 3, IGNORE_INDEX]]])  # class 3 has labels, so its pseudo label is wrong
    assert stored_labels(labels, stored, torch.tensor([5, 8])).tolist() == [[[3, IGNORE_INDEX, 5, IGNORE_INDEX, IGNORE_INDEX]]]


def test_cutmix_by_hand() -> None:
    maps = torch.tensor([[[1, 1, 1], [1, 1, 1]], [[2, 2, 2], [2, 2, 2]], [[3, 3, 3], [3, 3, 3]]])
    boxes = torch.tensor([[0, 1, 1, 3], [0, 0, 0, 0], [1, 0, 2, 2]])
    mixed = [[[1, 2, 2], [1, 1, 1]], [[2, 2, 2], [2, 2, 2]], [[3, 3, 3], [1, 1, 3]]]
    assert cutmix(maps, boxes).tolist() == mixed
    images = maps[:, None].expand(-1, 4, -1, -1)
    assert torch.equal(cutmix(images, boxes), torch.tensor(mixed)[:, None].expand(-1, 4, -1, -1))
    assert (maps[0] == 1).all()
