"""Speed alone: how a network is run, whatever it computes. Results change within rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch.backends import mkldnn

from maskclip.errors import InputError
from maskclip.inference.onednn import OneDNN

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
            stack.enter_context(OneDNN())
        yield
