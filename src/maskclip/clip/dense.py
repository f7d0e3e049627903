"""DenseCLIP: a frozen CLIP image tower that yields features at every position."""

from __future__ import annotations

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from typing_extensions import Self

from maskclip.clip.towers import Dense, Size, make_reader


class Frozen(nn.Module):
    """A module that stays in eval mode and without gradients, whatever contains it says."""

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class DenseCLIP(Frozen):
    """Dense features of a frozen open_clip image tower (ViT or ModifiedResNet) at any image size (section 3.2).

    `tower` is `model.visual` of an open_clip model, `strategy` what its last layer does: see `strategies.py`.
    Normalisation is the tower's own: callers pass RGB in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tower: VisionTransformer | ModifiedResNet, strategy: str = "maskclip") -> None:
        super().__init__()
        self.reader = make_reader(tower, strategy)
        self.register_buffer("mean", torch.tensor(tower.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tower.image_std).view(3, 1, 1), persistent=False)
        self.freeze()

    def covered_size(self, height: int, width: int) -> Size:
        """The image size, in pixels, that the grid of features covers for an input of this size."""
        return self.reader.covered_size(height, width)

    def forward(self, image: Tensor, with_keys: bool = False) -> Dense:
        """Features (B, D, h, w) and, if asked for, keys (B, K, h, w); `image` (B, 3, H, W) is RGB in 0..1."""
        return self.reader((image - self.mean) / self.std, with_keys)
