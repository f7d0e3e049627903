"""Bilinear resizing as linear maps: a matrix (n_out, n_in) for each axis.

Matrices A for rows and B for columns resize X to A X B', and maps compose by multiplication. The rows of every matrix here
are nonnegative and sum to one, so each output value is a weighted mean of input values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def resample(rows: Tensor, n_out: int) -> Tensor:
    """`rows` (n_in, K) resized to (n_out, K) like `F.interpolate` with mode "bilinear" and align_corners False.

    If `rows` is a linear map, the result is that map followed by the resize, without an n_out x n_in matrix. For the identity
    (n_in, n_in), the result is the matrix of the resize.
    """
    n_in = len(rows)
    if n_in == n_out:
        return rows
    centres = (torch.arange(n_out, dtype=torch.float64) + 0.5) * (n_in / n_out) - 0.5
    centres = centres.clamp(min=0)
    low = centres.long().clamp(max=n_in - 1)
    high = (low + 1).clamp(max=n_in - 1)
    share = (centres - low).to(rows.dtype)[:, None]
    return (1 - share) * rows[low] + share * rows[high]


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along an axis of `size` pixels: every `stride`, with the last window shifted inwards."""
    last = max(size - window, 0)
    return [*range(0, last, stride), last]


def windows(grid: int, covered: int, window: int, starts: Sequence[int], size: int) -> Tensor:
    """The linear map (size, S * grid) from the grids of S windows, side by side, to the pixels of an axis; float64.

    The `grid` values of a window cover `covered` >= `window` pixels; those beyond the window are cropped. A pixel in several
    windows is their mean.
    """
    one = resample(torch.eye(grid, dtype=torch.float64), covered)[:window]
    canvas = torch.zeros(size, len(starts), grid, dtype=torch.float64)
    for number, start in enumerate(starts):
        canvas[start : start + window, number] = one
    counts = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        counts[start : start + window] += 1
    return canvas.flatten(1) / counts[:, None]
