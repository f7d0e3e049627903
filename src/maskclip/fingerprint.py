"""SHA-256 of a model's weights. Results record it, and students and caches are checked against it."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_sha256(model: nn.Module, without: str | None = None) -> str:
    """SHA-256 (hex) of the names and float32 bytes of all tensors in the state dict, sorted by name.

    Tensors whose names begin with `without` are left out.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if without is not None and name.startswith(without):
            continue
        digest.update(name.encode())
        digest.update(value.detach().cpu().to(torch.float32).contiguous().numpy())
    return digest.hexdigest()
