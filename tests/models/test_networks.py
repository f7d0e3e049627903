"""The networks of students: every architecture trains all its parameters, and DeepLabv2 is as in the paper."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maskclip.models.networks import ARCHITECTURES, DeepLabV2, build_network


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18d"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_features_of_every_architecture(arch: str, encoder: str) -> None:
    torch.manual_seed(0)
    network = build_network(arch, encoder, None, 12, {})
    features = network(torch.rand(2, 3, 32, 64))
    assert features.shape[:2] == (2, 12) and features.shape[2] * 64 == features.shape[3] * 32
    features.square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []  # DDP does not accept unused parameters


@torch.no_grad()
def test_deeplabv2_is_four_dilated_convolutions_summed() -> None:
    torch.manual_seed(0)
    network = build_network("deeplabv2", "resnet18", None, 5, {}).eval()
    assert isinstance(network, DeepLabV2)
    image = torch.rand(1, 3, 64, 64)
    x = network.encoder(image)[-1]
    assert x.shape[2:] == (8, 8)  # output stride 8
    expected = torch.zeros(1, 5, 8, 8)
    for branch, rate in zip(network.branches, (6, 12, 18, 24), strict=True):
        convolution, norm = branch[0], branch[1]
        y = F.conv2d(x, convolution.weight, convolution.bias, padding=rate, dilation=rate)
        y = (y - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
        expected += (y * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
    torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-5)
    assert (network(image) >= 0).all()


def test_the_papers_encoder_has_a_deep_stem() -> None:
    with torch.device("meta"):
        network = build_network("deeplabv2", "tu-resnet101c", None, 1024, {})
    kernels = [m for m in network.encoder.modules() if isinstance(m, torch.nn.Conv2d)][:3]
    assert [tuple(k.kernel_size) for k in kernels] == [(3, 3)] * 3 and network.encoder.out_channels[-1] == 2048
