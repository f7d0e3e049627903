"""`DenseCLIP`: features at every position from a frozen CLIP image tower."""

from __future__ import annotations

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from maskclip.clip.adapters import Size
from maskclip.clip.frozen import Frozen
from maskclip.clip.proxy import Proxy
from maskclip.clip.towers import Dense, dense_tower
from maskclip.errors import InputError

NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "openai": (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of RGB in 0..1 by name, to replace those of the tower."""


class DenseCLIP(Frozen):
    """Dense features of a frozen image tower, for images of any size (section 3, MaskCLIP).

    `tower`: `model.visual` of an open_clip model. `strategy`: what replaces attention in the last layer, a key of
    `STRATEGIES`. `normalisation`: a key of `NORMALISATIONS`, or None for the mean and standard deviation of the tower.
    `proxy`: only for the strategy "proxyclip". `projected_keys=True` passes keys through the output projection, as the
    released code does. Raises `InputError` if the tower or a setting is not supported.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        tower: nn.Module,
        strategy: str = "maskclip",
        normalisation: str | None = None,
        proxy: Proxy | None = None,
        projected_keys: bool = False,
    ) -> None:
        super().__init__()
        self.tower = dense_tower(tower, strategy, proxy, projected_keys)
        if normalisation is not None and normalisation not in NORMALISATIONS:
            raise InputError(f"model.normalisation={normalisation}: choose {', '.join(NORMALISATIONS)}, or null for that of the model")
        mean, std = (tower.image_mean, tower.image_std) if normalisation is None else NORMALISATIONS[normalisation]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.freeze()

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies that the tower supports."""
        return self.tower.strategies

    def covered_size(self, height: int, width: int) -> Size:
        """The size in pixels that the grid of features covers for an image of this size, padding included."""
        return self.tower.covered_size(height, width)

    def forward(self, image: Tensor, with_keys: bool = False) -> Dense:
        """Features (B, D, h, w) and keys (B, K, h, w), or None without `with_keys`, of RGB images (B, 3, H, W) in 0..1."""
        return self.tower((image - self.mean) / self.std, image, with_keys)
