"""The networks of students: every architecture trains all its parameters, and DeepLabv2 is as in the paper."""

from __future__ import annotations

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from timm.layers import DropPath

from maskclip import InputError
from maskclip.models.networks import ARCHITECTURES, DeepLabV2, Network, UPerNetViT, build_network

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((arch, encoder, {}) for arch in ARCHITECTURES if arch != "upernet_vit" for encoder in ("resnet18", "tu-resnet18d")),
    ("segformer", "mit_b0", {}),
    *(("upernet_vit", "tu-test_vit", {"patch_size": side, "decoder_channels": 32}) for side in (None, 14, 8)),
    ("upernet_vit", "tu-vit_tiny_patch16_dinov3_qkvb", {"decoder_channels": 32}),
]


@pytest.mark.parametrize(("arch", "encoder", "options"), CASES)
def test_features_of_every_architecture(arch: str, encoder: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build_network(arch, encoder, None, 12, options)
    rows, columns = network.multiple, 2 * network.multiple
    features = network(torch.rand(2, 3, rows, columns))
    assert features.shape[:2] == (2, 12) and features.shape[2] * columns == features.shape[3] * rows
    features.square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []  # DDP does not accept unused parameters


@pytest.mark.parametrize(("arch", "encoder"), [("segformer", "mit_b0"), ("upernet_vit", "tu-test_vit")])
def test_transformers_train_with_one_image_in_half_precision(arch: str, encoder: str) -> None:
    """The gradient in bf16 has the direction of the gradient in float32."""
    torch.manual_seed(0)
    network = build_network(arch, encoder, None, 12, {})
    for module in network.modules():
        if isinstance(module, (torch.nn.Dropout, DropPath)):
            module.eval()
    image, gradients = torch.rand(1, 3, 64, 64), []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            features = network(image)
            assert features.dtype == (torch.bfloat16 if enabled else torch.float32)
        features.float().square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert F.cosine_similarity(*gradients, dim=0) > 0.95


@pytest.mark.parametrize(("patch_size", "multiple"), [(None, 32), (14, 28), (8, 16)])
def test_a_vit_has_a_quarter_of_its_patch_size_as_stride(patch_size: int | None, multiple: int) -> None:
    network = build_network("upernet_vit", "tu-test_vit", None, 12, {"patch_size": patch_size, "decoder_channels": 32})
    assert network.multiple == multiple
    assert network(torch.rand(1, 3, multiple, 3 * multiple)).shape == (1, 12, 8, 24)


@torch.no_grad()
def test_upernet_reads_four_blocks_at_four_scales() -> None:
    """Blocks 2, 3, 5 and 6 of six reach the decoder on grids of 4, 2, 1 and 1/2 positions for each patch."""
    torch.manual_seed(0)
    network = build_network("upernet_vit", "tu-test_vit", None, 12, {"decoder_channels": 32}).eval()
    assert isinstance(network, UPerNetViT)
    vit, image = network.encoder, torch.rand(1, 3, 64, 64)
    received: list[list[torch.Tensor]] = []
    network.decoder.register_forward_pre_hook(lambda _, inputs: received.append(list(inputs[0])))
    network(image)
    x, blocks = vit.norm_pre(vit._pos_embed(vit.patch_embed(image))), []
    for block in vit.blocks:
        x = block(x)
        blocks.append(x[:, vit.num_prefix_tokens :].transpose(1, 2).unflatten(2, (4, 4)))
    assert len(blocks) == 6
    assert [tuple(level.shape[2:]) for level in received[0][2:]] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    torch.testing.assert_close(received[0][4], blocks[3])
    torch.testing.assert_close(received[0][5], F.max_pool2d(blocks[5], 2))


def test_networks_normalise_as_their_weights_expect() -> None:
    for arch, encoder, colours in (
        ("deeplabv3plus", "resnet18", IMAGENET),
        ("segformer", "mit_b0", IMAGENET),
        ("upernet_vit", "tu-vit_small_patch14_reg4_dinov2.lvd142m", IMAGENET),
        ("upernet_vit", "tu-vit_small_patch16_dinov3.lvd1689m", IMAGENET),
        ("upernet_vit", "tu-test_vit", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
    ):
        network = build_network(arch, encoder, None, 12, {})
        assert (network.mean, network.std) == colours, encoder


def test_weights_with_other_colours_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    build = smp.create_model
    monkeypatch.setattr(smp, "create_model", lambda *names, **options: build(*names, **options | {"encoder_weights": None}))
    assert isinstance(build_network("unet", "tu-resnet18", "imagenet", 12, {}), Network)
    with pytest.raises(InputError, match=r"the weights of tu-test_resnet expect images with mean \(0.5, 0.5, 0.5\)"):
        build_network("unet", "tu-test_resnet", "imagenet", 12, {})


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
