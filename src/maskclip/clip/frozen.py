"""Base class of modules that are never trained."""

from __future__ import annotations

from torch import nn
from typing_extensions import Self


class Frozen(nn.Module):
    """A module that stays in eval mode, even if a parent module calls `train()`. `freeze` switches gradients off."""

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)
