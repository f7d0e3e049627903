"""The loss and the best classes of every pixel of a batch, from coarse logits, without a tensor of classes x height x width.

Rows of pixels are upsampled, reduced and dropped again, a few at a time. The results equal those of
`upsample_logits` followed by the plain operation, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maskclip.inference.precision import full_precision
from maskclip.inference.resampling import resample
from maskclip.inference.tiles import TILE_VALUES, CoarseLogits, nonzero_inputs

ROWS = 16
"""Rows of pixels in a band, at least, before a band holds several images: neighbouring bands share two rows of the grid."""


@dataclass(frozen=True)
class Band:
    """Some rows of pixels of some images of a batch.

    `images`, `rows`: slices of the batch and of the rows of pixels. `inputs` (k,): the rows of the grid that they depend on.
    `part`: the logits of these rows, with images and classes on one axis.
    """

    images: slice
    rows: slice
    inputs: Tensor
    part: CoarseLogits

    def logits(self, num_classes: int) -> Tensor:
        """Logits (R, B, C, W) of the pixels."""
        return self.part.upsampled().unflatten(1, (-1, num_classes))


def bands(logits: Tensor, covered: tuple[int, int], image_size: tuple[int, int]) -> Iterator[Band]:
    """Yield the bands that make up all pixels of a batch with coarse logits (B, C, h, w).

    `covered`, `image_size`: as in `upsample_logits`.
    """
    device, (_, num_classes, height, width) = logits.device, logits.shape
    rows, columns = (
        resample(torch.eye(n, dtype=torch.float64), c)[:s] for n, c, s in zip((height, width), covered, image_size, strict=True)
    )
    columns = columns.to(logits)
    values, row_values = TILE_VALUES["cpu" if device.type == "cpu" else "cuda"], num_classes * image_size[1]
    count = min(max(1, values // (ROWS * row_values)), len(logits))
    step = max(1, values // (count * row_values))
    parts = [(slice(y, y + step), *nonzero_inputs(rows[y : y + step])) for y in range(0, image_size[0], step)]
    for first in range(0, len(logits), count):
        images = slice(first, first + count)
        board = logits[images].permute(2, 0, 1, 3).flatten(1, 2)  # h x BC x w
        for pixels, inputs, matrix in parts:
            yield Band(images, pixels, inputs.to(device), CoarseLogits(board[inputs.to(device)], matrix.to(logits), columns))


def upsampled_max(logits: Tensor, covered: tuple[int, int], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The largest logit (B, H, W) of each pixel and its index (B, H, W) among the C classes of coarse logits (B, C, h, w)."""
    best = logits.new_empty((len(logits), *image_size))
    index = torch.empty_like(best, dtype=torch.long)
    with torch.no_grad(), full_precision(logits.device):
        for band in bands(logits, covered, image_size):
            values, indices = band.logits(logits.shape[1]).max(dim=2)  # R x B x W
            best[band.images, band.rows], index[band.images, band.rows] = values.transpose(0, 1), indices.transpose(0, 1)
    return best, index


def upsampled_cross_entropy(logits: Tensor, labels: Tensor, covered: tuple[int, int], ignored: int) -> Tensor:
    """The sum (a scalar) of the cross-entropies of all pixels, from coarse logits (B, C, h, w) and labels (B, H, W).

    Pixels labelled `ignored` do not count. `covered`: as in `upsample_logits`. The gradient is computed together with the
    value, so that each pixel is upsampled once.
    """
    total: Tensor = _CrossEntropy.apply(logits, labels, covered, ignored)
    return total


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, covered: tuple[int, int], ignored: int) -> Tensor:
        total, gradient = logits.new_zeros(()), torch.zeros_like(logits)
        with full_precision(logits.device):
            for band in bands(logits, covered, (labels.shape[1], labels.shape[2])):
                loss, slope = _loss_and_gradient(band.logits(logits.shape[1]), labels[band.images, band.rows].transpose(0, 1), ignored)
                total += loss
                if ctx.needs_input_grad[0]:
                    coarse = band.part.gradient(slope.flatten(1, 2)).unflatten(1, (-1, logits.shape[1]))  # k x B x C x w
                    gradient[band.images].index_add_(2, band.inputs, coarse.permute(1, 2, 0, 3))
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * factor, None, None, None


def _loss_and_gradient(logits: Tensor, labels: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of logits (R, B, C, W) and labels (R, B, W), and its gradient, softmax minus one-hot, where valid."""
    valid = (labels != ignored).unsqueeze(2)
    target = labels.unsqueeze(2).where(valid, 0)  # R x B x 1 x W
    log_probabilities = logits.log_softmax(dim=2)
    loss = -(log_probabilities.gather(2, target) * valid).sum()
    slope = log_probabilities.exp_()
    slope.scatter_(2, target, slope.gather(2, target) - 1)
    return loss, slope.mul_(valid)
