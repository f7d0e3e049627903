"""The goldens, the models with refilled weights that they belong to, and a CLIP that computes each image once."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import open_clip
import torch
from conftest import ROOT
from torch import Tensor, nn

from maskclip import DenseCLIP
from support.refill import refill

GOLDENS = np.load(ROOT / "tests" / "assets" / "goldens.npz")


def golden(key: str) -> Tensor:
    return torch.from_numpy(GOLDENS[key])


def golden_image(name: str) -> Tensor:
    """Image "a" or "b" as (1, 3, H, W), RGB in 0..1."""
    return golden(f"rgb_{name}").permute(2, 0, 1)[None].float() / 255


@cache
def _visual(architecture: str) -> nn.Module:
    return refill(open_clip.create_model(architecture), "visual.").visual  # type: ignore[return-value]


def refilled_visual(architecture: str) -> nn.Module:
    """A copy of the image tower of an architecture with refilled weights. Building it takes seconds, copying it does not."""
    return copy.deepcopy(_visual(architecture))


class ComputedOnce(nn.Module):
    """A `DenseCLIP` that keeps its outputs, so that tests of many settings on the same image run the tower once."""

    def __init__(self, clip: DenseCLIP) -> None:
        super().__init__()
        self.clip = clip
        self.outputs: dict[bytes, tuple[Tensor, Tensor | None]] = {}

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        return self.clip.covered_size(height, width)

    def forward(self, image: Tensor, with_keys: bool = False) -> tuple[Tensor, Tensor | None]:
        key = image.numpy().tobytes()
        if key not in self.outputs:
            self.outputs[key] = self.clip(image, with_keys=True)
        features, keys = self.outputs[key]
        return features, keys if with_keys else None
