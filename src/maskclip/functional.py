"""The equations of MaskCLIP and MaskCLIP+ (Zhou, Loy, Dai, ECCV 2022) as pure functions of tensors.

They are in the order in which an image passes through them: cosines, prompt denoising, key smoothing, upsampling, pseudo
labels, losses. None of them changes its arguments. "The released code" is the authors' code.

Notation: i and j are positions of the feature map, c is a class, f_i the features of a position, k_i its key and t_c the unit
text embedding of a class. s is the logit scale, 100 for CLIP.
Shapes: B images, C classes, D dimensions of the text space, h x w positions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = 255
"""Label of pixels that count neither in the loss nor in the metrics, for up to 254 classes (8-bit masks)."""

WIDE_IGNORE_INDEX = 65535
"""Label of ignored pixels for more than 254 classes (16-bit masks)."""

UNLABELLED = -1
"""Label of pixels that receive a pseudo label in training."""

LOGIT_SCALE = 100.0
"""s: the factor of cosines before a softmax, as CLIP has learned it."""

REMOVED = -100.0
"""Logit of a class that prompt denoising has removed from an image."""


def ignore_index(num_classes: int) -> int:
    """Return the label of ignored pixels: 255 for up to 254 classes, 65535 for more."""
    return IGNORE_INDEX if num_classes < IGNORE_INDEX else WIDE_IGNORE_INDEX


def cosine_logits(features: Tensor, text_embeddings: Tensor) -> Tensor:
    """Cosines (B, C, h, w) of the features of each position and the text embeddings (section 3, MaskCLIP).

        logit_ic = cos(f_i, t_c)

    `features` (B, D, h, w) may have any length. The rows of `text_embeddings` (C, D) are unit vectors.
    """
    return torch.einsum("bdhw,cd->bchw", F.normalize(features, dim=1), text_embeddings)


def best_word(logits: Tensor, counts: Sequence[int]) -> Tensor:
    """Class logits (B, C, ...): the largest of the word logits (B, W, ...) of each class.

    `counts`: the number of words of each class. The words of a class are adjacent, and W is the sum of the counts.
    """
    if all(count == 1 for count in counts):
        return logits
    class_of_word = torch.repeat_interleave(torch.tensor(counts, device=logits.device))  # W
    index = class_of_word.view(1, -1, *[1] * (logits.dim() - 2)).expand_as(logits)
    lowest = logits.new_full((logits.shape[0], len(counts), *logits.shape[2:]), -torch.inf)
    return lowest.scatter_reduce(1, index, logits, "amax")


def prompt_denoising(logits: Tensor, threshold: float = 0.5, scale: float = LOGIT_SCALE, keep_if_all_unsure: bool = True) -> Tensor:
    """Logits (B, C, h, w) with -100 for the classes that are probably not in the image (section 3, prompt denoising).

    A class is removed if its largest probability in the image is below `threshold`:

        max_i softmax_c(s logit_ic) < threshold

    If this removes all classes, the image keeps all of them. The released code removes them all
    (`keep_if_all_unsure=False`), which makes the argmax class 0 everywhere.
    """
    peak = (scale * logits).softmax(dim=1).amax(dim=(2, 3), keepdim=True)  # B x C x 1 x 1
    unsure = peak < threshold
    if keep_if_all_unsure:
        unsure = unsure & ~unsure.all(dim=1, keepdim=True)
    return logits.masked_fill(unsure, REMOVED)


def key_smoothing(
    logits: Tensor, keys: Tensor, threshold: float = 1.0, scale: float = LOGIT_SCALE, unit: Literal["keys", "channels"] = "keys"
) -> Tensor:
    """Scores (B, C, h, w) that sum the probabilities of positions with similar keys (section 3, key smoothing).

        p_i <- sum_j cos(k_i, k_j) p_j

    p_i = softmax_c(s logit_ic) are the class probabilities, and `keys` (B, K, h, w) those of the last attention layer. As in
    the paper, the weights do not sum to one, so the results are scores, not probabilities. Only positions whose largest
    probability is below `threshold` are smoothed (1.0: all positions); the others keep their probabilities.

    `unit`: "keys" normalises the key of each position, which gives the cosine. "channels" normalises each channel over all
    positions, as the released code does.
    """
    probabilities = (scale * logits).softmax(dim=1)
    p = probabilities.flatten(2)  # B x C x hw
    k = F.normalize(keys.flatten(2), dim=1 if unit == "keys" else 2)  # B x K x hw
    # (p k') k equals p (k' k), without the hw x hw matrix
    smooth = torch.bmm(torch.bmm(p, k.transpose(1, 2)), k).view_as(logits)
    if threshold >= 1:
        return smooth
    confident = probabilities.amax(dim=1, keepdim=True) >= threshold
    return torch.where(confident, probabilities, smooth)


def vote_logits(votes: Tensor, scale: float = LOGIT_SCALE, floor: float = 1e-4) -> Tensor:
    """Logits (B, C, h, w) from the scores v of `key_smoothing` (not in the paper).

        logit_ic = log(v_ic / sum_c v_ic) / s

    The best class of a position stays the best. Shares make positions comparable: raw scores grow with the number of similar
    positions, so that in bilinear upsampling large regions and smoothed positions would override their neighbours. Positions
    that were not smoothed get their logits back, up to a constant for each position. `floor` is the least share.
    """
    best, least = votes.amax(dim=1, keepdim=True), votes.amin(dim=1, keepdim=True)
    votes = torch.where(best > 0, votes, votes - least).clamp(min=0)  # cosines may be negative, and so may all scores
    return (votes / votes.sum(dim=1, keepdim=True).clamp(min=1e-12)).clamp(min=floor).log() / scale


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, H, W) resized to `size` (height, width): bilinear, align_corners=False."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def upsample_logits(logits: Tensor, covered: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Logits (B, C, H, W) at the pixels of an image, from logits (B, C, h, w) of the padded image.

    `covered`: height and width of the image after the network's padding at the bottom and right. The padding is cut off.
    """
    return resize(logits, covered)[..., : image_size[0], : image_size[1]]


def pseudo_labels(
    labels: Tensor, best: tuple[Tensor, Tensor], classes: Tensor, confidence: float | None = None, ignored: int = IGNORE_INDEX
) -> Tensor:
    """Labels (B, H, W) in which each unlabelled pixel (-1) has its best-scoring class (section 3, MaskCLIP+).

        label = argmax over the unlabelled classes c of score_c

    `classes` (U,) are the indices of the classes without labels, the only ones that are assigned. `best`: the maximum over these
    classes and its position, (B, H, W) each, as `scores.max(dim=1)` or `upsampled_max` returns them. Other pixels keep their
    label. Pixels whose best score is below `confidence` become `ignored`.
    """
    scores, index = best
    pseudo = classes.to(index.device)[index]
    if confidence is not None:
        pseudo = pseudo.masked_fill(scores < confidence, ignored)
    return torch.where(labels == UNLABELLED, pseudo, labels)


def stored_labels(labels: Tensor, stored: Tensor, classes: Tensor, ignored: int = IGNORE_INDEX) -> Tensor:
    """Labels (B, H, W) in which each unlabelled pixel (-1) has its `stored` pseudo label (B, H, W).

    Pseudo labels other than the unlabelled `classes` (U,) become `ignored`: pixels of the classes with labels are labelled.
    """
    return torch.where(labels == UNLABELLED, stored.masked_fill(~torch.isin(stored, classes), ignored), labels)


def cutmix(maps: Tensor, boxes: Tensor) -> Tensor:
    """Maps (B, ..., H, W) in which each element has a box of the next one, and the last a box of the first.

    Images and their labels are mixed with the same `boxes` (B, 4): top, left, bottom and right in pixels; empty boxes change
    nothing. Source: CutMix (Yun et al., ICCV 2019), for segmentation French et al. (BMVC 2020).
    """
    mixed, others = maps.clone(), maps.roll(-1, dims=0)
    for index, (top, left, bottom, right) in enumerate(boxes.tolist()):
        mixed[index, ..., top:bottom, left:right] = others[index, ..., top:bottom, left:right]
    return mixed


def mean_over_pixels(
    total: Tensor, labels: Tensor, ignored: int = IGNORE_INDEX, over: Literal["valid", "all"] = "valid", valid: Tensor | None = None
) -> Tensor:
    """The mean (a scalar) of a loss that is summed to `total` over the pixels of labels (B, H, W) other than `ignored`.

    `over="valid"` averages over the valid pixels. "all" divides by the number of all pixels, as the released code does, which
    lowers the effective learning rate where many pixels are ignored. The result is 0 if no pixel is valid.

    `valid` replaces the number of valid pixels. In distributed training pass its mean over the processes: then the mean of
    the processes' gradients is the gradient of the whole batch.
    """
    if over == "all":
        return total / labels.numel()
    return total / ((labels != ignored).sum() if valid is None else valid).clamp(min=1)


def distillation(features: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """L1 distance (a scalar) of student features g and unit teacher features (section 4, ablation).

        mean_i |g_i - f_i / |f_i||

    `features` and `teacher` are (B, D, h, w); the teacher's are resized to the student's grid. The mean is over the channels
    and over the positions in `mask` (B, H, W), reduced to the grid by nearest neighbour; it is 0 if the mask is empty.
    Gradients reach the student; the released code detaches its features, so that its loss cannot train it.
    """
    target = F.normalize(resize(teacher, (features.shape[-2], features.shape[-1])), dim=1)
    counts = F.interpolate(mask[:, None].float(), size=features.shape[-2:], mode="nearest")
    return ((features - target).abs().mean(dim=1, keepdim=True) * counts).sum() / counts.sum().clamp(min=1)


def mean_cosine(features: Tensor, targets: Tensor) -> Tensor:
    """Mean over images and positions (a scalar) of the cosine of two feature maps (B, D, h, w) (not in the paper).

    mean_i cos(f_i, g_i)
    """
    return F.cosine_similarity(features, targets, dim=1).mean()


def resample_position_embedding(
    embedding: Tensor, native: tuple[int, int], grid: tuple[int, int], first: int = 1, antialias: bool = False
) -> Tensor:
    """Position embedding (`first` + h*w, K) of another `grid` (h, w), by bicubic interpolation of the `native` one.

    The first `first` rows, those of class and register tokens, stay as they are. `antialias=True` widens the filter when
    shrinking and uses another cubic kernel at every size (a = -0.5 instead of -0.75).
    """
    if native == grid:
        return embedding
    spatial = embedding[first:].float().T.reshape(1, -1, *native)  # 1 x K x h x w
    spatial = F.interpolate(spatial, size=grid, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([embedding[:first], spatial.flatten(2)[0].T.to(embedding.dtype)])
