"""Matrix products on the CPU by oneDNN.

Torch multiplies float32 matrices with MKL. On an AMD EPYC with AVX512-BF16, oneDNN is 2.1 times as fast for float32 linear
layers, and bfloat16 attention for 64 queries at a time is twice as fast as torch's fused kernel.
`python scripts/benchmark.py --precision fp32,bf16` measures whole forward passes on your machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class OneDNN(TorchDispatchMode):
    """Compute large linear layers and attention on the CPU with oneDNN, in inference mode.

    Float32 linear layers become 1x1 convolutions, which torch sends to oneDNN. Bfloat16 attention is computed for 64 queries at
    a time, whose scores fit into the cache. Torch already uses oneDNN for bfloat16 linear layers, but copies the weights once
    per row if the input is not contiguous.
    """

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.linear.default and args[1].dim() == 2 and not kwargs:
            if _is_large(args[0], torch.float32):
                return _as_convolution(*args)
            if _is_large(args[0], torch.bfloat16):
                return func(args[0].contiguous(), *args[1:])
        plain = len(args) == 3 and kwargs.keys() <= {"scale"}  # no mask, no causality, no grouped heads
        if func is torch.ops.aten.scaled_dot_product_attention.default and plain and _is_large(args[1], torch.bfloat16):
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _is_large(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether `x` is on the CPU, has this type and is large enough for oneDNN to be faster. The limit is torch's own."""
    return x.device.type == "cpu" and x.dtype == dtype and x.numel() > 20480


def _as_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight' + bias (..., L) for x (..., K), weight (L, K) and bias (L,), as a convolution of an image of one column."""
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # 1 x K x N x 1, channels last
    product = torch.conv2d(rows, weight[:, :, None, None], bias)  # 1 x L x N x 1
    return product.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def _attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale q k') v (..., N, d) for q, k, v (..., N, d), for 64 queries at a time; torch computes the softmax in float32."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    # contiguous, because the heads of a projection are interleaved
    queries, keys, values = (query * scale).contiguous(), key.contiguous().transpose(-2, -1), value.contiguous()
    return torch.cat([(part @ keys).softmax(dim=-1) @ values for part in queries.split(64, dim=-2)], dim=-2)
