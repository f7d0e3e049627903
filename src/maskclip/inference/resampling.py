"""Bilinear resizing as what it is, a linear map of each axis: maps are matrices (n_out, n_in) and compose.

A map of the plane is a pair of them, A for rows and B for columns: resized X is A X B'. Rows of every matrix here are
nonnegative and sum to one, so each output value is a weighted mean of the values that its row reaches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def resample(rows: Tensor, n_out: int) -> Tensor:
    """`rows` (n_in, K) resized to (n_out, K): bilinear with pixel centres, as `F.interpolate` does with align_corners False.

    For a map (n_in, K) it is that map followed by the resize; what lies between never becomes a matrix of n_in x n_out.
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


def bilinear(n_in: int, n_out: int) -> Tensor:
    """The resize of n_in values to n_out as a matrix (n_out, n_in), float64."""
    return resample(torch.eye(n_in, dtype=torch.float64), n_out)


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows start along `size` pixels: every `stride`, the last one shifted inwards; one at 0 if all fits into it."""
    last = max(size - window, 0)
    return [*range(0, last, stride), last]


def windows(grid: int, covered: int, window: int, starts: Sequence[int], size: int) -> Tensor:
    """The map (size, S * grid) from the grids of S windows, side by side, to the pixels that the windows lie on; float64.

    The `grid` values of a window cover `covered` >= `window` pixels, of which those beyond the window are cut off. A pixel
    in several windows is their mean.
    """
    one = resample(torch.eye(grid, dtype=torch.float64), covered)[:window]
    canvas = torch.zeros(size, len(starts), grid, dtype=torch.float64)
    for number, start in enumerate(starts):
        canvas[start : start + window, number] = one
    counts = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        counts[start : start + window] += 1
    return canvas.flatten(1) / counts[:, None]
