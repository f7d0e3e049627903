"""Reproducible random weights: each tensor of a CLIP is filled from a seed and its index in the sorted list of names.

The goldens in `assets/goldens.npz` were computed on these weights.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

SEED = 20220712


def filling(key: str, index: int, shape: tuple[int, ...]) -> Tensor:
    """The float32 values of the tensor `key`, which is number `index` of the sorted names. They are computed in float64."""
    n = np.random.default_rng([SEED, index]).standard_normal(shape)
    leaf = key.rsplit(".", 1)[-1]
    if key == "logit_scale":
        value = np.full(shape, math.log(100))
    elif leaf == "running_var":
        value = 1 + 0.1 * np.abs(n)
    elif leaf in ("running_mean", "bias", "in_proj_bias") or key == "token_embedding.weight":
        value = 0.02 * n
    elif leaf in ("class_embedding", "positional_embedding"):
        value = 0.05 * n
    elif key in ("visual.proj", "text_projection"):
        value = n * shape[0] ** -0.5
    elif len(shape) == 1:
        value = 1 + 0.1 * n
    else:
        value = n * math.prod(shape[1:]) ** -0.5
    return torch.from_numpy(np.asarray(value, dtype=np.float64).astype(np.float32))


def refill(model: nn.Module, prefix: str = "") -> nn.Module:
    """Refill all tensors whose names start with `prefix`; returns the model in eval mode."""
    state = model.state_dict()
    for index, key in enumerate(sorted(state)):
        if key.startswith(prefix) and state[key].is_floating_point():
            state[key].copy_(filling(key, index, tuple(state[key].shape)))
    return model.eval()
