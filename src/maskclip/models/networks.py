"""Segmentation networks whose last feature lies in the text space: an encoder, a decoder, and one convolution."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import Tensor, nn

from maskclip.errors import InputError

ARCHITECTURES = ("deeplabv2", "deeplabv3plus", "deeplabv3", "fpn", "manet", "segformer", "unet", "unetplusplus", "upernet")
"""DeepLabv2, and those of segmentation-models-pytorch that train all of their parameters and take any size."""


class DeepLabV2(nn.Module):
    """DeepLabv2 (Chen et al., TPAMI 2017): four dilated 3 x 3 convolutions on the last feature map, summed.

    Each has batch norm and ReLU as in the released code of MaskCLIP, so features are never negative. (B, D, h, w) at the
    encoder's output stride, 8 by default.
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
    """A network of segmentation-models-pytorch with its last convolution at the decoder's stride, without upsampling."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = model.encoder, model.decoder, model.segmentation_head[0]

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(image)))


def build_network(arch: str, encoder: str, weights: str | None, channels: int, options: dict[str, Any]) -> nn.Module:
    """A network from images (B, 3, H, W), H and W multiples of 32, to features (B, `channels`, h, w).

    `arch` is one of `ARCHITECTURES`, `encoder` one of smp or, with the prefix "tu-", of timm; `options` go to the network.
    Raises `InputError` if either is unknown, an option does not fit, or `weights` are out of reach.
    """
    if arch not in ARCHITECTURES:
        raise InputError(f"student.arch={arch}: choose one of {', '.join(ARCHITECTURES)}")
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
            f"the {weights} weights of {encoder} are not on this machine and could not be downloaded; "
            "connect once, or start from random weights with student.weights=null"
        ) from cause
    if isinstance(network.encoder, ResNetEncoder):  # smp keeps the stages beyond the depth, without ever using them
        for stage in range(options.get("encoder_depth", 5), 5):
            setattr(network.encoder, f"layer{stage}", nn.Identity())
    return network


def _deeplabv2(encoder: str, weights: str | None, channels: int, options: dict[str, Any]) -> DeepLabV2:
    settings = {"encoder_output_stride": 8, "encoder_depth": 5, "rates": (6, 12, 18, 24), **options}
    if strangers := set(settings) - {"encoder_output_stride", "encoder_depth", "rates"}:
        raise TypeError(f"deeplabv2 has no {', '.join(sorted(strangers))}")
    depth, stride = settings["encoder_depth"], settings["encoder_output_stride"]
    return DeepLabV2(smp.encoders.get_encoder(encoder, depth=depth, weights=weights, output_stride=stride), channels, settings["rates"])


def _of_smp(arch: str, encoder: str, weights: str | None, channels: int, options: dict[str, Any]) -> FromSMP:
    known = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[arch]).parameters
    if strangers := set(options) - set(known):  # smp would swallow them
        raise TypeError(f"{arch} has no {', '.join(sorted(strangers))}")
    return FromSMP(smp.create_model(arch, encoder, encoder_weights=weights, classes=channels, **options))
