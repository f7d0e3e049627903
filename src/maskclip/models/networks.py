"""Segmentation networks that return features in the text space: an encoder, a decoder and one convolution."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerNorm2d
from timm.models import Eva, VisionTransformer
from torch import Tensor, nn

from maskclip.errors import InputError, is_count, require
from maskclip.models.depthwise import replace_dilated_depthwise

ARCHITECTURES = ("deeplabv2", "deeplabv3plus", "deeplabv3", "fpn", "manet", "segformer", "unet", "unetplusplus", "upernet", "upernet_vit")
"""DeepLabv2, UPerNet on a ViT, and the networks of segmentation-models-pytorch that train all their parameters at any image size."""

OPTIONS: dict[str, dict[str, Any]] = {
    "deeplabv2": {"encoder_output_stride": 8, "encoder_depth": 5, "rates": (6, 12, 18, 24)},
    "upernet_vit": {"patch_size": None, "decoder_channels": 256},
}
"""Options of the networks that are defined here, with their defaults."""


class Network(nn.Module):
    """A network from images (B, 3, H, W) to features (B, D, h, w), with what it requires of images.

    `multiple`: H and W are multiples of this number. `mean`, `std`: of the normalised images, by colour.
    """

    encoder: Any
    multiple = 32
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD


class DeepLabV2(Network):
    """DeepLabv2 (Chen et al., TPAMI 2017): the sum of four dilated 3 x 3 convolutions of the encoder's last feature map.

    Each convolution has batch norm and ReLU, as in MaskCLIP's released code, so features are never negative. The output is
    (B, D, h, w) at the encoder's output stride, 8 by default.
    """

    def __init__(self, encoder: Any, channels: int, rates: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.out_channels[-1]
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 3, padding=rate, dilation=rate), nn.BatchNorm2d(channels), nn.ReLU()) for rate in rates
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.encoder(image)[-1]
        return torch.stack([branch(x) for branch in self.branches]).sum(dim=0)


class FromSMP(Network):
    """A network of segmentation-models-pytorch up to its last convolution, at the decoder's stride, without upsampling."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = model.encoder, model.decoder, model.segmentation_head[0]

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(image)))


class UPerNetViT(Network):
    """UPerNet (Xiao et al., ECCV 2018) on four blocks of a plain ViT of timm, at a quarter of the patch size.

    Transposed convolutions and a pooling bring the blocks to strides of 1/4, 1/2, 1 and 2 patches, as in BEiT (Bao et al., ICLR 2022).
    """

    def __init__(self, encoder: Any, channels: int, decoder_channels: int) -> None:
        super().__init__()
        self.encoder, depth = encoder, len(encoder.blocks)
        self.blocks = encoder.prune_intermediate_layers([depth * part // 4 - 1 for part in (1, 2, 3, 4)], prune_norm=True)
        self.multiple = 2 * encoder.patch_embed.patch_size[0]
        self.mean, self.std = encoder.pretrained_cfg["mean"], encoder.pretrained_cfg["std"]
        width = encoder.embed_dim
        up, double, up_again = (nn.ConvTranspose2d(width, width, 2, stride=2) for _ in range(3))
        quadruple = nn.Sequential(up, LayerNorm2d(width), nn.GELU(), up_again)
        self.scales = nn.ModuleList([quadruple, double, nn.Identity(), nn.MaxPool2d(2)])
        self.decoder = _with_group_norm(UPerNetDecoder([0, 0, *[width] * 4], decoder_channels=decoder_channels))
        self.head = nn.Conv2d(decoder_channels, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        blocks = self.encoder.forward_intermediates(image, indices=self.blocks, intermediates_only=True)
        pyramid = [scale(features) for scale, features in zip(self.scales, blocks, strict=True)]
        return self.head(self.decoder([image, image, *pyramid]))  # the decoder ignores the first two


def _with_group_norm(decoder: UPerNetDecoder) -> UPerNetDecoder:
    """Replace batch norm, which cannot train the decoder's pooled 1 x 1 map with one image, by group norm over 8 channels."""
    for parent in list(decoder.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(child.num_features // 8, child.num_features))
    return decoder


def build_network(arch: str, encoder: str, weights: str | None, channels: int, options: dict[str, Any]) -> Network:
    """Build a network from images to features with `channels` channels.

    `arch`: one of `ARCHITECTURES`. `encoder`: an encoder of segmentation-models-pytorch, or of timm with the prefix "tu-".
    `weights`: a name such as "imagenet", or None for random weights. The weights of a timm encoder are named by its tag
    ("tu-NAME.TAG"), and `weights` only switches them on. `options`: further arguments of the network.

    Raises `InputError` if a name is unknown, an option does not fit, the weights cannot be downloaded, or they expect other
    colours than the network has.
    """
    if arch not in ARCHITECTURES:
        raise InputError(f"unknown student.arch={arch}: choose one of {', '.join(ARCHITECTURES)}")
    builders: dict[str, Callable[..., Network]] = {"deeplabv2": _deeplabv2, "upernet_vit": _upernet_vit}
    build = builders.get(arch, partial(_of_smp, arch))
    known = OPTIONS.get(arch) or inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[arch]).parameters
    try:
        if unknown_options := set(options) - set(known):  # smp ignores them
            raise TypeError(f"unknown options: {', '.join(sorted(unknown_options))}")
        network = build(encoder, weights, channels, **OPTIONS.get(arch, {}) | options)
    except InputError:
        raise
    except KeyError as cause:
        raise InputError(f"student.encoder={encoder}: {cause.args[0]}") from cause
    except OSError as cause:
        raise InputError(
            f"the {weights} weights of {encoder} are not on this machine and could not be downloaded: "
            "connect to the internet once, or start from random weights with student.weights=null"
        ) from cause
    except (TypeError, ValueError, RuntimeError) as cause:  # RuntimeError: timm does not have the model or its weights
        raise InputError(f"student.arch={arch} with encoder={encoder} cannot be built: {cause}") from cause
    if weights is not None and encoder.startswith("tu-"):
        _check_colours(network, encoder)
    if isinstance(network.encoder, ResNetEncoder):  # smp keeps unused stages beyond the depth, which would stop DDP
        for stage in range(options.get("encoder_depth", 5), 5):
            setattr(network.encoder, f"layer{stage}", nn.Identity())
    replace_dilated_depthwise(network)
    return network


def _deeplabv2(
    encoder: str, weights: str | None, channels: int, encoder_output_stride: int, encoder_depth: int, rates: Sequence[int]
) -> DeepLabV2:
    trunk = smp.encoders.get_encoder(encoder, depth=encoder_depth, weights=weights, output_stride=encoder_output_stride)
    return DeepLabV2(trunk, channels, rates)


def _upernet_vit(encoder: str, weights: str | None, channels: int, patch_size: int | None, decoder_channels: int) -> UPerNetViT:
    require(patch_size is None or is_count(patch_size), "student.patch_size", patch_size, "the side of a patch in pixels, or null")
    require(is_count(decoder_channels) and decoder_channels % 8 == 0, "student.decoder_channels", decoder_channels, "a multiple of 8")
    resized: dict[str, Any] = {} if patch_size is None else {"patch_size": patch_size}
    vit = None
    if encoder.startswith("tu-"):
        with suppress(TypeError):  # other models of timm have no dynamic_img_size
            vit = timm.create_model(encoder.removeprefix("tu-"), pretrained=weights is not None, dynamic_img_size=True, **resized)
    if not isinstance(vit, (VisionTransformer, Eva)):
        raise ValueError("it needs a plain ViT of timm, such as tu-vit_small_patch14_reg4_dinov2.lvd142m")
    return UPerNetViT(vit, channels, decoder_channels)


def _of_smp(arch: str, encoder: str, weights: str | None, channels: int, **options: Any) -> FromSMP:
    return FromSMP(smp.create_model(arch, encoder, encoder_weights=weights, classes=channels, **options))


def _check_colours(network: Network, encoder: str) -> None:
    """Raise `InputError` if the weights of an encoder of timm were trained on images that were normalised differently."""
    config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
    if config and (config.mean, config.std) != (network.mean, network.std):
        raise InputError(
            f"the weights of {encoder} expect images with mean {config.mean} and standard deviation {config.std}, but this network "
            f"normalises to {network.mean} and {network.std}: choose another student.encoder or start with student.weights=null"
        )
