"""Dilated depthwise convolutions on the CPU, for which oneDNN has no fast kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BLOCK_VALUES = 2**20
"""Values of the input that are computed together: they fit into the cache."""


class DilatedDepthwise(nn.Conv2d):
    """A depthwise 3 x 3 convolution with dilation, padded to the size of its input, on the CPU as a sum of nine shifted inputs.

    Torch's own is slow here, above all for its gradients and for channels-last tensors. Results are the same up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        output: Tensor = _DepthwiseShifts.apply(x, self.weight, self.dilation)
        return output


def replace_dilated_depthwise(network: nn.Module) -> None:
    """Replace the convolutions of a network that `DilatedDepthwise` can compute. The state dict keeps its names."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d) and _is_dilated_depthwise(child):
                with torch.device("meta"):
                    faster = DilatedDepthwise(
                        child.in_channels,
                        child.out_channels,
                        child.kernel_size,  # type: ignore[arg-type]
                        padding=child.padding,  # type: ignore[arg-type]
                        dilation=child.dilation,  # type: ignore[arg-type]
                        groups=child.groups,
                        bias=False,
                    )
                faster.weight = child.weight
                setattr(module, name, faster)


def _is_dilated_depthwise(layer: nn.Conv2d) -> bool:
    same = layer.groups == layer.in_channels == layer.out_channels and layer.padding == layer.dilation and layer.padding_mode == "zeros"
    return same and layer.kernel_size == (3, 3) and layer.stride == (1, 1) and min(layer.dilation) > 1 and layer.bias is None


class _DepthwiseShifts(torch.autograd.Function):
    """y[i] = sum_k w[k] x[i + k d] for k in {-1, 0, 1}^2, with the arithmetic in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _correlate(x, weight, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        return _correlate(slope, weight.flip(2, 3), ctx.dilation), _weight_gradient(x, slope, weight, ctx.dilation), None


def _correlate(x: Tensor, weight: Tensor, dilation: tuple[int, int]) -> Tensor:
    """The convolution (B, C, H, W), channels last, of x (B, C, H, W) with weight (C, 1, 3, 3)."""
    pixels, taps = _channels_last(x), weight.float().permute(1, 2, 3, 0)[0].contiguous()  # 3 x 3 x C
    output = torch.empty_like(pixels)
    for images, channels in _blocks(pixels):
        block = pixels[images, :, :, channels].float()
        total = block * taps[1, 1, channels]
        for (i, j), target, source in _shifts(pixels.shape[1:3], dilation):
            if (i, j) != (1, 1):
                total[target].addcmul_(block[source], taps[i, j, channels])
        output[images, :, :, channels] = total
    return output.permute(0, 3, 1, 2)


def _weight_gradient(x: Tensor, slope: Tensor, weight: Tensor, dilation: tuple[int, int]) -> Tensor:
    """The gradient (C, 1, 3, 3) of the weights, from x and the gradient `slope` of the output, (B, C, H, W) each."""
    inputs, outputs = _channels_last(x), _channels_last(slope)
    gradient = torch.zeros(3, 3, inputs.shape[3])
    for images, channels in _blocks(inputs):
        block, slopes = inputs[images, :, :, channels].float(), outputs[images, :, :, channels].float()
        for (i, j), target, source in _shifts(inputs.shape[1:3], dilation):
            gradient[i, j, channels] += (slopes[target] * block[source]).sum((0, 1, 2))
    return gradient.permute(2, 0, 1).unsqueeze(1).to(weight.dtype)


def _channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W) as a contiguous tensor (B, H, W, C); a view if its memory layout is channels last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _blocks(pixels: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of the images and of the channels of (B, H, W, C) with up to `BLOCK_VALUES` values each, or one channel."""
    batch, height, width, all_channels = pixels.shape
    channels = min(all_channels, max(1, BLOCK_VALUES // (height * width)))
    images = max(1, BLOCK_VALUES // (height * width * channels))
    for first in range(0, batch, images):
        for channel in range(0, all_channels, channels):
            yield slice(first, first + images), slice(channel, channel + channels)


def _shifts(size: Sequence[int], dilation: tuple[int, int]) -> Iterator[tuple[tuple[int, int], tuple[slice, ...], tuple[slice, ...]]]:
    """Each weight's position with the target and the source of its shift in (B, H, W, C), without shifts beyond the image."""
    everything = slice(None)
    for i, (y, from_y) in _overlaps(size[0], dilation[0]):
        for j, (x, from_x) in _overlaps(size[1], dilation[1]):
            yield (i, j), (everything, y, x), (everything, from_y, from_x)


def _overlaps(size: int, step: int) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """For a shift by -`step`, 0 and `step`: its number, and the positions i and i + shift that both lie within 0..`size`."""
    for number, shift in enumerate((-step, 0, step)):
        if abs(shift) < size:
            low, high = max(0, -shift), size - max(0, shift)
            yield number, (slice(low, high), slice(low + shift, high + shift))
