"""Recomputed blocks: the same outputs, gradients and statistics, with less memory held for the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from maskclip import InputError
from maskclip.models.networks import build_network
from maskclip.models.recomputing import Recomputing, recompute_blocks


def trained(encoder: str, recompute: bool) -> tuple[nn.Module, int]:
    """A network after a forward and a backward pass, and the number of values held in between."""
    torch.manual_seed(0)
    network = build_network("deeplabv3plus", encoder, None, 8, {"decoder_channels": 16})
    if recompute:
        recompute_blocks(network)
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    image = torch.rand(2, 3, 64, 64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(image).square().mean()
    loss.backward()
    return network, sum(held.values())


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet26d"])
def test_gradients_and_statistics_are_the_same(encoder: str) -> None:
    (plain, all_values), (recomputed, few_values) = (trained(encoder, recompute) for recompute in (False, True))
    assert sum(isinstance(module, Recomputing) for module in recomputed.modules()) == 4
    assert list(recomputed.state_dict()) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(recomputed.state_dict()[name], value), name
    for (name, parameter), reference in zip(recomputed.named_parameters(), plain.parameters(), strict=True):
        assert parameter.grad is not None and torch.equal(parameter.grad, reference.grad), name  # type: ignore[arg-type]
    assert few_values < 0.9 * all_values


def test_other_encoders_are_refused() -> None:
    network = build_network("segformer", "mit_b0", None, 8, {})
    with pytest.raises(InputError, match="recompute=true needs a ResNet"):
        recompute_blocks(network)
