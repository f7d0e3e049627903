"""Segmentation networks that return features in the text space: an encoder, a decoder and one convolution."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import Tensor, nn

from maskclip.errors import InputError
from maskclip.models.depthwise import replace_dilated_depthwise

ARCHITECTURES = ("deeplabv2", "deeplabv3plus", "deeplabv3", "fpn", "manet", "segformer", "unet", "unetplusplus", "upernet")
"""DeepLabv2, and the networks of segmentation-models-pytorch that train all their parameters and accept any image size."""


class DeepLabV2(nn.Module):
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


class FromSMP(nn.Module):
    """A network of segmentation-models-pytorch up to its last convolution, at the decoder's stride, without upsampling."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = model.encoder, model.decoder, model.segmentation_head[0]

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(image)))


def build_network(arch: str, encoder: str, weights: str | None, channels: int, options: dict[str, Any]) -> nn.Module:
    """Build a network from images (B, 3, H, W) to features (B, `channels`, h, w). H and W are multiples of 32.

    `arch`: one of `ARCHITECTURES`. `encoder`: an encoder of segmentation-models-pytorch, or of timm with the prefix "tu-".
    `weights`: a name such as "imagenet", or None for random weights. `options`: further arguments of the network.

    Raises `InputError` if a name is unknown, an option does not fit, or the weights cannot be downloaded.
    """
    if arch not in ARCHITECTURES:
        raise InputError(f"unknown student.arch={arch}: choose one of {', '.join(ARCHITECTURES)}")
    try:
        network = (
            _deeplabv2(encoder, weights, channels, options) if arch == "deeplabv2" else _of_smp(arch, encoder, weights, channels, options)
        )
    except KeyError as cause:
        raise InputError(f"student.encoder={encoder}: {cause.args[0]}") from cause
    except (TypeError, ValueError) as cause:
        raise InputError(f"student.arch={arch} with encoder={encoder} cannot be built: {cause}") from cause
    except OSError as cause:
        raise InputError(
            f"the {weights} weights of {encoder} are not on this machine and could not be downloaded: "
            "connect to the internet once, or start from random weights with student.weights=null"
        ) from cause
    if isinstance(network.encoder, ResNetEncoder):  # smp keeps unused stages beyond the depth, which would stop DDP
        for stage in range(options.get("encoder_depth", 5), 5):
            setattr(network.encoder, f"layer{stage}", nn.Identity())
    replace_dilated_depthwise(network)
    return network


def _deeplabv2(encoder: str, weights: str | None, channels: int, options: dict[str, Any]) -> DeepLabV2:
    settings = {"encoder_output_stride": 8, "encoder_depth": 5, "rates": (6, 12, 18, 24), **options}
    if unknown_options := set(options) - {"encoder_output_stride", "encoder_depth", "rates"}:
        raise TypeError(f"unknown options: {', '.join(sorted(unknown_options))}")
    depth, stride = settings["encoder_depth"], settings["encoder_output_stride"]
    return DeepLabV2(smp.encoders.get_encoder(encoder, depth=depth, weights=weights, output_stride=stride), channels, settings["rates"])


def _of_smp(arch: str, encoder: str, weights: str | None, channels: int, options: dict[str, Any]) -> FromSMP:
    parameters = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[arch]).parameters
    if unknown_options := set(options) - set(parameters):  # smp ignores them
        raise TypeError(f"unknown options: {', '.join(sorted(unknown_options))}")
    return FromSMP(smp.create_model(arch, encoder, encoder_weights=weights, classes=channels, **options))
