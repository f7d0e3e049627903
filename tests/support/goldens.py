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
from support.refill import filling

GOLDENS = np.load(ROOT / "tests" / "assets" / "goldens.npz")


def golden(key: str) -> Tensor:
    return torch.from_numpy(GOLDENS[key])


def golden_image(name: str) -> Tensor:
    """Image "a" or "b" as (1, 3, H, W), RGB in 0..1."""
    return golden(f"rgb_{name}").permute(2, 0, 1)[None].float() / 255


@cache
def _visual(architecture: str) -> nn.Module:
    with torch.device("meta"):  # nothing is initialised, and the text tower takes no memory
        model = open_clip.CLIP(**open_clip.get_model_config(architecture))
    visual = model.visual.to_empty(device="cpu")
    state = visual.state_dict()
    for index, name in enumerate(sorted(model.state_dict())):
        if (key := name.removeprefix("visual.")) != name:
            tensor = state[key]
            tensor.copy_(filling(name, index, tuple(tensor.shape))) if tensor.is_floating_point() else tensor.zero_()
    visual.image_mean, visual.image_std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return visual.eval()


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
