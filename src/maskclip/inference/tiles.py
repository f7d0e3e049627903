"""Full-size logits from coarse logits, tile by tile, without a tensor of classes x height x width.

Bilinear upsampling, cropping, averaging over windows and views, and resizing are all linear and separable. The logits of
any tile of the output are therefore sums of A L B' with a few rows of A and B and a patch of the coarse logits L (see
`resampling.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskclip.inference.precision import full_precision

TILE_WIDTH = {"cpu": 128, "cuda": 1024}
TILE_VALUES = {"cpu": 2**19, "cuda": 2**26}
"""Logits in a tile: as many as fit into the cache of a CPU core, or as keep a GPU busy."""


@dataclass(frozen=True)
class CoarseLogits:
    """Coarse logits (h, C, w) of one view of an image with H x W pixels, or of a part of it.

    `rows` (H, h) and `columns` (W, w) are the linear maps from the grid to the pixels, see `resampling.py`.
    """

    logits: Tensor
    rows: Tensor
    columns: Tensor

    def upsampled(self) -> Tensor:
        """Logits of the pixels, (H, C, W)."""
        height, classes, width = self.logits.shape
        wide = self.logits.reshape(height * classes, width) @ self.columns.T  # hC x W
        return (self.rows @ wide.view(height, -1)).view(len(self.rows), classes, -1)

    def gradient(self, pixels: Tensor) -> Tensor:
        """The gradient (h, C, w) of the coarse logits, from that of the pixels, (H, C, W): the transpose of `upsampled`."""
        height, classes, width = pixels.shape
        wide = self.rows.T @ pixels.reshape(height, classes * width)  # h x CW
        return wide.view(-1, width).matmul(self.columns).view(-1, classes, self.columns.shape[1])


def full_logits(views: Sequence[CoarseLogits]) -> Tensor:
    """The mean logits (C, H, W) of the views, at full size in one tensor."""
    with full_precision(views[0].logits.device):
        return mean([view.upsampled() for view in views]).permute(1, 0, 2)


def mean(maps: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape."""
    return maps[0] if len(maps) == 1 else torch.stack(list(maps)).mean(dim=0)


def tiles(views: Sequence[CoarseLogits], tile_values: int | None = None) -> Iterator[tuple[slice, slice, list[CoarseLogits]]]:
    """Yield the tiles of the output, row by row: their rows, their columns, and the part of each view that they depend on.

    `tile_values`: number of logits in a tile; None for the default of the device.
    """
    (height, width), logits = (len(views[0].rows), len(views[0].columns)), views[0].logits
    device = "cpu" if logits.device.type == "cpu" else "cuda"
    tile_width = min(width, TILE_WIDTH[device])
    tile_height = max(1, (tile_values or TILE_VALUES[device]) // (logits.shape[1] * tile_width))
    columns = [
        (slice(x, x + tile_width), [nonzero_inputs(view.columns[x : x + tile_width]) for view in views])
        for x in range(0, width, tile_width)
    ]
    for y in range(0, height, tile_height):
        rows = [nonzero_inputs(view.rows[y : y + tile_height]) for view in views]
        bands = [view.logits[inputs] for view, (inputs, _) in zip(views, rows, strict=True)]
        for tile_columns, columns_of_views in columns:
            parts = zip(bands, rows, columns_of_views, strict=True)
            yield slice(y, y + tile_height), tile_columns, [CoarseLogits(band[..., j], a, b) for band, (_, a), (j, b) in parts]


def nonzero_inputs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs that some rows of a linear map depend on, and the rows restricted to these inputs."""
    inputs = rows.any(dim=0).nonzero()[:, 0]
    return inputs, rows[:, inputs]


def contenders(patches: Sequence[CoarseLogits]) -> tuple[Sequence[CoarseLogits], Tensor]:
    """The patches of a tile without the classes that cannot have the largest logit at any pixel, and the remaining classes (L,).

    Every logit of the tile is a weighted mean of the logits of its class in the patch. A class whose maximum is below the
    minimum of another class therefore loses everywhere.
    """
    minima = mean([patch.logits.amin(dim=(0, 2)) for patch in patches])
    maxima = mean([patch.logits.amax(dim=(0, 2)) for patch in patches])
    remaining = (maxima >= minima.max()).nonzero()[:, 0]
    if len(remaining) == len(maxima):
        return patches, remaining
    return [replace(patch, logits=patch.logits[:, remaining]) for patch in patches], remaining
