"""Dilated depthwise convolutions against torch's, with their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskclip.models import depthwise
from maskclip.models.depthwise import DilatedDepthwise, replace_dilated_depthwise
from maskclip.models.networks import build_network


def layer(channels: int, dilation: int) -> DilatedDepthwise:
    return DilatedDepthwise(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=False)


@pytest.mark.parametrize("values", [40, 2**20], ids=["small blocks", "one block"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dilation", [2, 5, 9, 30])  # 30 shifts everything but the centre out of the image
def test_outputs_and_gradients_of_torch(
    dilation: int, memory_format: torch.memory_format, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depthwise, "BLOCK_VALUES", values)
    x = torch.randn(2, 6, 11, 8).contiguous(memory_format=memory_format).requires_grad_()
    convolution = layer(6, dilation)
    ours = convolution(x)
    expected = F.conv2d(x, convolution.weight, padding=dilation, dilation=dilation, groups=6)
    torch.testing.assert_close(ours, expected)
    slope = torch.randn_like(expected)
    gradients = [torch.autograd.grad(output, (x, convolution.weight), slope) for output in (ours, expected)]
    for gradient, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5)


def test_half_precision_sums_in_float32() -> None:
    convolution, x = layer(4, 3), torch.randn(2, 4, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = convolution(x)
    half = x.bfloat16()
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, convolution(half.float()).bfloat16())


def test_only_dilated_depthwise_convolutions_are_replaced() -> None:
    network = build_network("deeplabv3plus", "resnet18", None, 12, {})
    replaced = [m for m in network.modules() if isinstance(m, DilatedDepthwise)]
    assert [m.dilation for m in replaced] == [(12, 12), (24, 24), (36, 36)]
    others = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False))
    replace_dilated_depthwise(others)
    assert not any(isinstance(m, DilatedDepthwise) for m in others)


def test_replacing_keeps_the_weights_and_their_names() -> None:
    plain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False))
    weight = plain[0].weight
    replace_dilated_depthwise(plain)
    assert isinstance(plain[0], DilatedDepthwise) and plain[0].weight is weight and list(plain.state_dict()) == ["0.weight"]
