"""Speed alone: how a network is run, whatever it computes. Results change within rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.backends import mkldnn
from torch.utils._python_dispatch import TorchDispatchMode

from maskclip.errors import InputError

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What features are computed in; None is the weights' own type."""

M = TypeVar("M", bound=torch.nn.Module)


def accelerate(model: M, compile: bool = False, channels_last: bool = False) -> M:
    """The model itself, to be compiled when it is first called, its convolutions in the layout that tensor cores want.

    Compiled on a CPU, weights are taken as constants and laid out for the library that multiplies them: later changes to them
    are not seen. Raises `InputError` for what is neither true nor false.
    """
    for name, value in (("compile", compile), ("channels_last", channels_last)):
        if not isinstance(value, bool):
            raise InputError(f"inference.{name}={value}: give true or false")
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if compile:
        model.compile(options=None if torch.cuda.is_available() else {"freezing": True})
    return model


@contextmanager
def forward_in(precision: str, device: torch.device, model: object = None) -> Iterator[None]:
    """A forward pass of `model` on `device`: autocast to one of `PRECISIONS`, products by the quicker library."""
    dtype = PRECISIONS[precision]
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=dtype, enabled=dtype is not None))
        if device.type == "cpu" and mkldnn.is_available() and getattr(model, "_compiled_call_impl", None) is None:
            stack.enter_context(_ProductsByOneDNN())
        yield


class _ProductsByOneDNN(TorchDispatchMode):
    """In inference mode on a CPU: products that torch gives to MKL, which on AMD's processors reaches half of oneDNN's rate.

    These are float32 linear layers, which become 1x1 convolutions, and the products within bfloat16 attention. Linear layers
    in bfloat16 go to oneDNN anyway.
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
    """Whether x is worth laying out for another library; smaller ones torch would not give to oneDNN."""
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
