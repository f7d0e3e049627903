"""From images to coarse logits: images are scaled, mirrored and cut into windows; windows of all images share batches.

This is the module that resizes an image to the input size of the network (`Protocol.short_side` and others).
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from maskclip.errors import InputError
from maskclip.functional import resize
from maskclip.inference.kernels import forward_in
from maskclip.inference.labels import Features
from maskclip.inference.precision import full_precision
from maskclip.inference.protocol import Protocol, Size
from maskclip.inference.resampling import resample, window_starts, windows
from maskclip.inference.segmenter import Segmenter
from maskclip.inference.tiles import CoarseLogits

if TYPE_CHECKING:  # students are used without open_clip
    from maskclip.clip.dense import DenseCLIP

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """One view of image number `image`: the scaled, possibly mirrored image, cut into windows of one size.

    Sizes are (height, width) in pixels. `starts`: the first rows and the first columns of the windows.
    """

    image: int
    input_size: Size
    mirrored: bool
    window: Size
    starts: tuple[list[int], list[int]]

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Top and left of every window, row by row."""
        return [(top, left) for top in self.starts[0] for left in self.starts[1]]


def coarse_logits(
    model: Segmenter, images: Sequence[Tensor], protocol: Protocol, with_features: bool = False
) -> Iterator[tuple[int, list[CoarseLogits], Features | None]]:
    """Yield each image's index with the coarse logits of its views, as soon as the network has processed all its windows.

    Windows of one size share batches, whatever image they belong to. With `with_features`, the third value is the features of
    the image, if it is not cut into windows.
    """
    views = [view for index, image in enumerate(images) for view in _views(index, image, protocol)]
    views_of: dict[int, list[int]] = defaultdict(list)
    windows_by_size: dict[Size, list[tuple[int, int, int]]] = defaultdict(list)
    for number, view in enumerate(views):
        views_of[view.image].append(number)
        windows_by_size[view.window].extend((number, *corner) for corner in view.corners)
    device = _device(model)

    @lru_cache(maxsize=1)  # the windows of a view are adjacent in the list
    def view_pixels(number: int) -> Tensor:
        return _pixels(images[views[number].image].to(device), views[number])

    logits: dict[int, list[Tensor]] = defaultdict(list)
    features_of: dict[int, Features] = {}
    for (height, width), jobs in windows_by_size.items():
        for start in range(0, len(jobs), protocol.batch_size):
            chunk = jobs[start : start + protocol.batch_size]
            pixels = torch.stack([_as_float(view_pixels(number)[:, y : y + height, x : x + width]) for number, y, x in chunk])
            batch_logits, batch_features = forward(model, pixels, protocol, with_features)
            for (number, _, _), window_logits in zip(chunk, batch_logits, strict=True):
                logits[number].append(window_logits)
            if batch_features is not None:
                for (number, _, _), features in zip(chunk, batch_features, strict=True):
                    if views[number].input_size == (height, width):
                        features_of[views[number].image] = _features(model, features, (height, width))
            for index in sorted({views[number].image for number, _, _ in chunk}):
                numbers = views_of[index]
                if all(len(logits[number]) == len(views[number].corners) for number in numbers):
                    size = (images[index].shape[-2], images[index].shape[-1])
                    maps = [_stitched(model, views[number], logits.pop(number), size) for number in numbers]
                    yield index, maps, features_of.pop(index, None)


def forward(model: Segmenter, pixels: Tensor, protocol: Protocol, with_features: bool = False) -> tuple[Tensor, Tensor | None]:
    """Logits (B, C, h, w) float32 of pixels (B, 3, H, W), and with `with_features` the features (B, D, h, w), else None."""
    options = {"words": protocol.synonyms == "probability", "with_features": with_features}
    with forward_in(protocol.precision, pixels.device, model):
        output = model(pixels, **{name: True for name, on in options.items() if on})
    logits, features = output if with_features else (output, None)
    logits = logits.float()
    if logits.isnan().any():
        remedy = "the weights or an image are broken" if protocol.precision == "fp32" else "try protocol.precision=fp32"
        raise InputError(f"the network returns NaN in {protocol.precision}: {remedy}")
    return logits, features


def features_of_scaled_image(model: Segmenter, image: Tensor, protocol: Protocol) -> Features:
    """Features of an image that is too large for one forward pass, scaled down to `protocol.max_pixels` with its aspect ratio."""
    height, width = protocol.input_sizes(image.shape[1], image.shape[2])[0]
    scale = math.sqrt(protocol.max_pixels / (height * width))
    size = max(1, int(height * scale)), max(1, int(width * scale))
    _, features = forward(model, resize(_as_float(image.to(_device(model)))[None], size), protocol, with_features=True)
    assert features is not None
    return _features(model, features[0], size)


@torch.no_grad()
def window_features(clip: DenseCLIP, images: Tensor, window: int, stride: int, grid: Size, batch_size: int = 64) -> Tensor:
    """Features (B, D, h, w) of images (B, 3, H, W) in 0..1 as sliding windows see them, resampled to a `grid` (h, w).

    Each pixel has the mean of the unit features of the windows that contain it. Its cosines with text embeddings are
    therefore, up to a factor, the mean logits of the windows, as in `predict`. The grid covers exactly the image.
    """
    height, width = images.shape[-2:]
    starts = (window_starts(height, window, stride), window_starts(width, window, stride))
    view = View(0, (height, width), False, (min(window, height), min(window, width)), starts)
    corners, step, maps = view.corners, max(1, batch_size // len(images)), []
    for first in range(0, len(corners), step):
        pixels = [images[..., y : y + view.window[0], x : x + view.window[1]] for y, x in corners[first : first + step]]
        maps.append(F.normalize(clip(torch.cat(pixels))[0].float(), dim=1))
    features = torch.cat(maps).unflatten(0, (len(starts[0]), len(starts[1]), len(images)))  # U x V x B x D x h x w
    board = features.permute(2, 3, 0, 4, 1, 5).flatten(4).flatten(2, 3)  # B x D x Uh x Vw
    rows, columns = _linear_maps(clip, view, (features.shape[4], features.shape[5]))
    with full_precision(images.device):
        return resample(rows, grid[0]).to(board) @ board @ resample(columns, grid[1]).to(board).T


def _views(index: int, image: Tensor, protocol: Protocol) -> list[View]:
    """The views of image number `index`. Raises `InputError` for tensors that are not images."""
    if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
        raise InputError(f"an image is (3, H, W), not {tuple(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise InputError(f"an image is uint8 or float in 0..1, not {image.dtype}")
    views = []
    for height, width in protocol.input_sizes(image.shape[1], image.shape[2]):
        sliding = protocol.windows(height, width)
        if sliding is not None and protocol.window is None:
            _log_windows(protocol.max_pixels, *sliding)
        window, stride = sliding or (max(height, width), 1)
        starts = (window_starts(height, window, stride), window_starts(width, window, stride))
        for mirrored in (False, True) if protocol.flip else (False,):
            views.append(View(index, (height, width), mirrored, (min(window, height), min(window, width)), starts))
    return views


@lru_cache  # one line per run, not per image
def _log_windows(max_pixels: int, window: int, stride: int) -> None:
    logger.warning("inputs of more than %d pixels (protocol.max_pixels) are cut into windows of %d every %d", max_pixels, window, stride)


def _device(model: Segmenter) -> torch.device | None:
    """The device of the model's tensors; None for a model without tensors, which runs on the device of each image."""
    if not isinstance(model, torch.nn.Module):
        return None
    return next((t.device for t in (*model.parameters(), *model.buffers())), None)


def _as_float(pixels: Tensor) -> Tensor:
    """Pixels as float32 in 0..1."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


def _pixels(image: Tensor, view: View) -> Tensor:
    """The image (3, h, w) as the view shows it; uint8 if it is not resized, which saves memory until a window is cut."""
    if image.shape[1:] != torch.Size(view.input_size):
        image = resize(_as_float(image)[None], view.input_size)[0]
    return image.flip(2) if view.mirrored else image


def _features(model: Segmenter, features: Tensor, input_size: Size) -> Features:
    """The features (D, h, w) of an input of this size, with unit length."""
    return Features(F.normalize(features.float(), dim=0), input_size, model.covered_size(*input_size))


def _stitched(model: Segmenter, view: View, logits: Sequence[Tensor], size: Size) -> CoarseLogits:
    """The coarse logits of a view for an image of this size, from the logits (C, h, w) of each of its windows."""
    rows, columns = _linear_maps(model, view, (logits[0].shape[1], logits[0].shape[2]))
    across = torch.stack(list(logits)).unflatten(0, (len(view.starts[0]), len(view.starts[1])))  # U x V x C x h x w
    board = across.permute(0, 3, 2, 1, 4).flatten(0, 1).flatten(2)  # Uh x C x Vw
    return CoarseLogits(board, resample(rows, size[0]).to(board), resample(columns, size[1]).to(board))


def _linear_maps(model: Segmenter | DenseCLIP, view: View, grid: Size) -> tuple[Tensor, Tensor]:
    """The linear maps (H, Uh) and (W, Vw) from the grids (h, w) of U x V windows, side by side, to the pixels of a view."""
    covered = model.covered_size(*view.window)
    rows, columns = (windows(grid[axis], covered[axis], view.window[axis], view.starts[axis], view.input_size[axis]) for axis in (0, 1))
    return rows, columns.flip(0) if view.mirrored else columns
