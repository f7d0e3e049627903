"""Dense features against open_clip's forward pass and against the definition of MaskCLIP."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor

from maskclip import DenseCLIP, InputError
from maskclip.clip.towers import DenseResNet, DenseViT


def normalised(clip: DenseCLIP, image: Tensor) -> Tensor:
    return (image - clip.mean) / clip.std


def grid_of(tokens: Tensor, clip: DenseCLIP, size: int) -> Tensor:
    """Tokens (B, 1 + hw, D) as (B, D, h, w) without the class token, for a square image."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


@torch.no_grad()
def test_clip_on_a_vit_equals_open_clip(vit: CLIP) -> None:
    clip = DenseCLIP(vit.visual, "clip")
    image = torch.rand(2, 3, 32, 32)
    vit.visual.output_tokens = True
    pooled, tokens = vit.visual(normalised(clip, image))
    features, _ = clip(image)
    expected = (tokens @ vit.visual.proj).transpose(1, 2).reshape(2, -1, 4, 4)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    dense = clip.tower
    assert isinstance(dense, DenseViT)
    entering, (block,), _ = dense.tokens(normalised(clip, image))
    class_token = dense.adapter.project(block(entering))[:, 0]
    torch.testing.assert_close(class_token, pooled, atol=1e-5, rtol=0)


@torch.no_grad()
def test_clip_on_a_resnet_equals_open_clip(resnet: CLIP) -> None:
    clip = DenseCLIP(resnet.visual, "clip")
    image = torch.rand(2, 3, 64, 64)
    dense = clip.tower
    assert isinstance(dense, DenseResNet)
    pooled = dense.pool(*dense.positions(normalised(clip, image)))
    torch.testing.assert_close(pooled[:, 0], resnet.visual(normalised(clip, image)), atol=1e-5, rtol=0)
    torch.testing.assert_close(clip(image)[0], grid_of(pooled, clip, 64))


@torch.no_grad()
def test_maskclip_is_the_last_block_with_every_token_attending_to_itself(vit: CLIP) -> None:
    clip = DenseCLIP(vit.visual, "maskclip")
    image = torch.rand(2, 3, 40, 24)
    dense = clip.tower
    assert isinstance(dense, DenseViT)
    tokens, _, (h, w) = dense.tokens(normalised(clip, image))
    only_itself = torch.full((1 + h * w, 1 + h * w), -torch.inf).fill_diagonal_(0)
    block = vit.visual.transformer.resblocks[-1]
    expected = dense.adapter.project(block(tokens, attn_mask=only_itself))[:, 1:].transpose(1, 2).reshape(2, -1, h, w)
    torch.testing.assert_close(clip(image)[0], expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_value_is_the_output_projection_of_the_values(vit: CLIP) -> None:
    image = torch.rand(1, 3, 32, 32)
    clip = DenseCLIP(vit.visual, "value")
    dense = clip.tower
    assert isinstance(dense, DenseViT)
    tokens, _, _ = dense.tokens(normalised(clip, image))
    block = vit.visual.transformer.resblocks[-1]
    weight, bias = block.attn.in_proj_weight.chunk(3)[2], block.attn.in_proj_bias.chunk(3)[2]
    values = block.attn.out_proj(block.ln_1(tokens) @ weight.T + bias)
    expected = (vit.visual.ln_post(values) @ vit.visual.proj)[:, 1:].transpose(1, 2).reshape(1, -1, 4, 4)
    torch.testing.assert_close(clip(image)[0], expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_resnet_values_are_two_1x1_convolutions(resnet: CLIP) -> None:
    image = torch.rand(1, 3, 96, 64)
    clip = DenseCLIP(resnet.visual, "maskclip")
    visual, pool = resnet.visual, resnet.visual.attnpool
    x = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(normalised(clip, image))))))
    values = F.conv2d(x, pool.v_proj.weight[:, :, None, None], pool.v_proj.bias)
    expected = F.conv2d(values, pool.c_proj.weight[:, :, None, None], pool.c_proj.bias)
    features, keys = clip(image, with_keys=True)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(keys, F.conv2d(x, pool.k_proj.weight[:, :, None, None], pool.k_proj.bias), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 8), (37, 91), (32, 200)])
def test_images_of_any_size(any_clip: CLIP, height: int, width: int) -> None:
    clip = DenseCLIP(any_clip.visual)
    features, keys = clip(torch.rand(1, 3, height, width), with_keys=True)
    covered = clip.covered_size(height, width)
    assert covered[0] >= height and covered[1] >= width
    assert features.shape[2:] == keys.shape[2:]
    if any_clip.visual.__class__.__name__ == "VisionTransformer":
        assert features.shape == (1, 24, covered[0] // 8, covered[1] // 8)
    assert features.isfinite().all()


@torch.no_grad()
def test_padding_is_the_mean_colour(vit: CLIP) -> None:
    clip = DenseCLIP(vit.visual)
    image = torch.rand(1, 3, 27, 30)
    padded = clip.mean.expand(1, 3, 32, 32).clone()
    padded[..., :27, :30] = image
    torch.testing.assert_close(clip(image)[0], clip(padded)[0], atol=1e-6, rtol=1e-5)


def test_a_dense_clip_stays_frozen(any_clip: CLIP) -> None:
    clip = DenseCLIP(any_clip.visual)
    container = torch.nn.Sequential(clip).train()
    assert not clip.training and container.training
    assert not any(module.training for module in clip.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())


def test_unsupported_strategies(vit: CLIP, resnet: CLIP) -> None:
    with pytest.raises(InputError, match=r"unknown strategy 'values'.*clip, maskclip, value, sclip"):
        DenseCLIP(vit.visual, "values")
    with pytest.raises(InputError, match=r"a ResNet, does not support model.strategy=naclip: choose one of clip, maskclip, value"):
        DenseCLIP(resnet.visual, "naclip")
    with pytest.raises(InputError, match=r"'proxyclip' needs a proxy.*model.proxy=vit_base_patch8_224.dino"):
        DenseCLIP(vit.visual, "proxyclip")
    with pytest.raises(InputError, match=r"model.normalisation=clip: choose openai, imagenet"):
        DenseCLIP(vit.visual, normalisation="clip")
