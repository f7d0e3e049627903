"""Less memory in training: the activations inside the encoder's residual blocks are computed again for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import timm.models.resnet
import torch
import torchvision.models.resnet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from maskclip.errors import InputError

BLOCKS = tuple(getattr(module, name) for module in (timm.models.resnet, torchvision.models.resnet) for name in ("BasicBlock", "Bottleneck"))


class Recomputing(nn.Sequential):
    """A sequence of residual blocks that stores only the input of each block. Outputs, gradients and statistics are the same."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        for block in self:
            x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))
        return x


def recompute_blocks(network: nn.Module) -> None:
    """Let the stages of a network's ResNet encoder recompute their blocks. The state dict keeps its names.

    Raises `InputError` for other encoders.
    """
    stages = [
        (module, name, child)
        for module in list(network.modules())
        for name, child in module.named_children()
        if type(child) is nn.Sequential and len(child) and all(isinstance(block, BLOCKS) for block in child)
    ]
    if not stages:
        raise InputError("recompute=true needs a ResNet: choose student.encoder=resnet18 ... resnet152 or tu-resnet..., or recompute=false")
    for module, name, stage in stages:
        setattr(module, name, Recomputing(*stage))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of the first and of the second forward pass of a block."""
    return nullcontext(), _without_updates(block)


@contextmanager
def _without_updates(block: nn.Module) -> Iterator[None]:
    """Context in which batch norms use the statistics of the batch, but do not count it a second time in their running ones."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
