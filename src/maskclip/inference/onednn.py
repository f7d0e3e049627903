"""Matrix products on the CPU by oneDNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class OneDNN(TorchDispatchMode):
    """Send matrix products that torch gives to MKL to oneDNN instead, in inference mode on the CPU.

    MKL reaches half of oneDNN's rate on AMD processors. Float32 linear layers become 1x1 convolutions, and bfloat16 attention is
    computed for a few queries at a time. Torch already uses oneDNN for bfloat16 linear layers.
    """

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.linear.default and args[1].dim() == 2 and not kwargs:
            if _is_large(args[0], torch.float32):
                return _as_convolution(*args)
            if _is_large(args[0], torch.bfloat16):
                return func(args[0].contiguous(), *args[1:])  # else the weights are copied for every row
        plain = len(args) == 3 and kwargs.keys() <= {"scale"}  # no mask, no groups of heads
        if func is torch.ops.aten.scaled_dot_product_attention.default and plain and _is_large(args[1], torch.bfloat16):
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _is_large(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether `x` is on the CPU, has this type and is large enough for oneDNN to pay off. Torch applies the same size limit."""
    return x.device.type == "cpu" and x.dtype == dtype and x.numel() > 20480


def _as_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K) times weight (L, K), transposed, plus bias (L,): (..., L). The rows are an image of one line, channels last."""
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    product = torch.conv2d(rows, weight[:, :, None, None], bias)
    return product.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def _attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale q k') v for q (..., N, d), a few queries at a time: their scores stay in the cache. Softmax in float32."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    queries, keys, values = (query * scale).contiguous(), key.contiguous().transpose(-2, -1), value.contiguous()  # heads are interleaved
    return torch.cat([(part @ keys).softmax(dim=-1) @ values for part in queries.split(64, dim=-2)], dim=-2)
