"""DenseCLIP: a frozen CLIP image tower that yields features at every position."""

from __future__ import annotations

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from maskclip.clip.anatomy import Size
from maskclip.clip.frozen import Frozen
from maskclip.clip.proxy import Proxy
from maskclip.clip.towers import Dense, make_reader
from maskclip.errors import InputError

NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "openai": (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of RGB in 0..1, by name, for whoever wants others than the tower's own."""


class DenseCLIP(Frozen):
    """Dense features of a frozen open_clip image tower at any image size (section 3.2).

    `tower` is `model.visual` of an open_clip model, `strategy` what its last layer does: see `strategies.py`.
    `normalisation` None is the tower's own: callers pass RGB in 0..1. `proxy` is for `proxyclip` alone; `projected_keys`
    passes keys through the output projection, as the released code does.
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
        self.reader = make_reader(tower, strategy, proxy, projected_keys)
        if normalisation is not None and normalisation not in NORMALISATIONS:
            raise InputError(f"model.normalisation={normalisation}: choose {', '.join(NORMALISATIONS)}, or null for the tower's own")
        mean, std = (tower.image_mean, tower.image_std) if normalisation is None else NORMALISATIONS[normalisation]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.freeze()

    def covered_size(self, height: int, width: int) -> Size:
        """The image size, in pixels, that the grid of features covers for an input of this size."""
        return self.reader.covered_size(height, width)

    def forward(self, image: Tensor, with_keys: bool = False) -> Dense:
        """Features (B, D, h, w) and, if asked for, keys (B, K, h, w); `image` (B, 3, H, W) is RGB in 0..1."""
        return self.reader((image - self.mean) / self.std, image, with_keys)
