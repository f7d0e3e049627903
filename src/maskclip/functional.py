"""The equations of MaskCLIP and MaskCLIP+ (Zhou, Loy, Dai, ECCV 2022) as pure functions of tensors.

Shapes: B images, C classes, D dimensions of the text space, h x w positions of the coarse grid, H x W pixels.
No function changes its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = 255
"""Label of pixels that neither the loss nor the metrics look at."""

WIDE_IGNORE_INDEX = 65535
"""The same where there are more than 254 classes and masks have 16 bits."""

UNLABELLED = -1
"""Label of pixels whose class is unknown in training and is to be filled by a pseudo label."""

LOGIT_SCALE = 100.0
"""CLIP's temperature: cosines are multiplied by it before every softmax inside the refinement."""

REMOVED = -100.0
"""Logit of a class that prompt denoising has removed from an image."""


def ignore_index(num_classes: int) -> int:
    """The label of ignored pixels among so many classes: 255, or 65535 for more than 8 bits hold."""
    return IGNORE_INDEX if num_classes < IGNORE_INDEX else WIDE_IGNORE_INDEX


def cosine_logits(features: Tensor, text_embeddings: Tensor) -> Tensor:
    """Cosine between every position and every class, (B, C, h, w), in -1..1 (section 3.2).

    `features` (B, D, h, w) of any length, `text_embeddings` (C, D) with unit rows.
    """
    return torch.einsum("bdhw,cd->bchw", F.normalize(features, dim=1), text_embeddings)


def best_word(logits: Tensor, counts: Sequence[int]) -> Tensor:
    """Class logits (B, C, ...): the largest over the words of each class, from word logits (B, W, ...).

    `counts` says how many words each class has; words of a class stand side by side, W is the sum.
    """
    if all(count == 1 for count in counts):
        return logits
    owner = torch.repeat_interleave(torch.tensor(counts, device=logits.device))  # W
    empty = logits.new_full((logits.shape[0], len(counts), *logits.shape[2:]), -torch.inf)
    return empty.scatter_reduce(1, owner.view(1, -1, *[1] * (logits.dim() - 2)).expand_as(logits), logits, "amax")


def prompt_denoising(logits: Tensor, threshold: float = 0.5, scale: float = LOGIT_SCALE, keep_if_all_unsure: bool = True) -> Tensor:
    """The logits (B, C, h, w) with every class removed that no position of the image is sure of (section 3.3).

    A class goes (its logits become -100) where the largest of its probabilities over the image is below `threshold`.
    An image in which that is so of all classes is left as it is, as there would be nothing to say about it; the
    released code (`keep_if_all_unsure` False) removes them all, and the first class wins everywhere.
    """
    peak = (scale * logits).softmax(dim=1).amax(dim=(2, 3), keepdim=True)  # B x C x 1 x 1
    unsure = peak < threshold
    if keep_if_all_unsure:
        unsure = unsure & ~unsure.all(dim=1, keepdim=True)
    return logits.masked_fill(unsure, REMOVED)


def key_smoothing(
    logits: Tensor, keys: Tensor, threshold: float = 1.0, scale: float = LOGIT_SCALE, unit: Literal["keys", "channels"] = "keys"
) -> Tensor:
    """Scores (B, C, h, w) in which positions with similar keys vote together: p_i <- sum_j cos(k_i, k_j) p_j (section 3.3).

    `keys` (B, K, h, w) come from the last attention layer. Only positions whose largest probability is below
    `threshold` are smoothed, 1.0 means all of them; the others keep their probabilities. The weights are not
    normalised (as in the paper), so the result is a score, not a probability. `unit` says what is made a unit vector:
    the key of every position (the cosine of the paper), or every channel over all positions, as in the released code.
    """
    probabilities = (scale * logits).softmax(dim=1)
    p = probabilities.flatten(2)  # B x C x hw
    k = F.normalize(keys.flatten(2), dim=1 if unit == "keys" else 2)  # B x K x hw
    # sum_j (k_i . k_j) p_j as (p k') k: no hw x hw matrix is built
    smooth = torch.bmm(torch.bmm(p, k.transpose(1, 2)), k).view_as(logits)
    if threshold >= 1:
        return smooth
    sure = probabilities.amax(dim=1, keepdim=True) >= threshold
    return torch.where(sure, probabilities, smooth)


def vote_logits(votes: Tensor, scale: float = LOGIT_SCALE, floor: float = 1e-4) -> Tensor:
    """Logits (B, C, h, w) from the scores of `key_smoothing`: the log of each class's share of the votes, over `scale`.

    Every position keeps its best class. What changes is how positions compare: raw scores grow with the number of
    similar positions, so that in bilinear upsampling large regions run over small ones and smoothed positions over
    those that were left alone. For the latter the result is their logits again, up to a constant of the position.
    Shares below `floor` count as `floor`.
    """
    best, least = votes.amax(dim=1, keepdim=True), votes.amin(dim=1, keepdim=True)
    votes = torch.where(best > 0, votes, votes - least).clamp(min=0)  # weights may be negative, and with them all votes
    return (votes / votes.sum(dim=1, keepdim=True).clamp(min=1e-12)).clamp(min=floor).log() / scale


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, H, W) at a new height and width, bilinear with pixel centres (align_corners False)."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def upsample_logits(logits: Tensor, covered: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Logits (B, C, H, W) of the image's pixels, from a grid that covers `covered` >= `image_size` pixels.

    A network pads its input at the bottom and right; what was computed for the padding is cut off here.
    """
    return resize(logits, covered)[..., : image_size[0], : image_size[1]]


def pseudo_labels(labels: Tensor, scores: Tensor, classes: Tensor, confidence: float | None = None, ignored: int = IGNORE_INDEX) -> Tensor:
    """The labels (B, H, W) with every unlabelled pixel filled by its best class among `classes` (section 3.4).

    `scores` (B, U, H, W) are in the order of `classes` (U,), the class indices that have no labels. Labelled and ignored
    pixels stay as they are. Filled pixels whose best score is below `confidence` become `ignored`.
    """
    best, index = scores.max(dim=1)
    guess = classes.to(index.device)[index]
    if confidence is not None:
        guess = guess.masked_fill(best < confidence, ignored)
    return torch.where(labels == UNLABELLED, guess, labels)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignored: int = IGNORE_INDEX,
    over: Literal["valid", "all"] = "valid",
    valid: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of logits (B, C, H, W) against labels (B, H, W), a scalar; `ignored` pixels add nothing.

    It is the mean `over` the valid pixels, or over all of them as in the released code, where many ignored pixels make for small steps.
    0 where no pixel is valid. `valid` is the number of valid pixels to divide by, where it is not that of these labels: with the
    mean of the counts of several processes, the mean of their gradients is the gradient of the whole batch.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignored, reduction="sum")
    if over == "all":
        return total / labels.numel()
    return total / ((labels != ignored).sum() if valid is None else valid).clamp(min=1)


def distillation(features: Tensor, teacher: Tensor, where: Tensor) -> Tensor:
    """Mean absolute difference between a student's features and the teacher's, made unit, a scalar (section 4, ablation).

    Both are (B, D, h, w), `teacher` is brought to the size of `features`; `where` (B, H, W) says which pixels count, at
    their nearest position. The gradient reaches the student (in the released code it does not). 0 where no pixel counts.
    """
    target = F.normalize(resize(teacher, (features.shape[-2], features.shape[-1])), dim=1)
    counts = F.interpolate(where[:, None].float(), size=features.shape[-2:], mode="nearest")
    return ((features - target).abs().mean(dim=1, keepdim=True) * counts).sum() / counts.sum().clamp(min=1)


def resample_position_embedding(
    embedding: Tensor, native: tuple[int, int], grid: tuple[int, int], first: int = 1, antialias: bool = False
) -> Tensor:
    """Position embedding (`first` + h*w, K) for another grid: rows of class and register tokens, then the grid's, bicubic.

    `antialias` widens the filter where the grid is smaller than the native one, and uses another cubic (a = -0.5 instead of
    -0.75) at every size.
    """
    if native == grid:
        return embedding
    spatial = embedding[first:].float().T.reshape(1, -1, *native)  # 1 x K x h x w
    spatial = F.interpolate(spatial, size=grid, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([embedding[:first], spatial.flatten(2)[0].T.to(embedding.dtype)])
