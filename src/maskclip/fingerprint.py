"""A fingerprint of weights, so that a number says which weights it is of."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_sha256(model: nn.Module, without: str | None = None) -> str:
    """A fingerprint of all weights: SHA-256 over names and float32 bytes in order of the names.

    Weights whose names begin with `without` do not count.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if without is not None and name.startswith(without):
            continue
        digest.update(name.encode())
        digest.update(value.detach().cpu().to(torch.float32).contiguous().numpy())
    return digest.hexdigest()
