"""Faster execution on the CPU and GPU. Results match the plain forward pass up to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch.backends import mkldnn

from maskclip.errors import InputError
from maskclip.inference.onednn import OneDNN

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The type that features are computed in; None for the type of the weights."""

M = TypeVar("M", bound=torch.nn.Module)


def accelerate(model: M, compile: bool = False, channels_last: bool = False) -> M:
    """Return `model`, changed in place for faster execution.

    `compile`: compile the model at its first call. On the CPU, compilation freezes the weights: later changes to them have no
    effect. `channels_last`: use the memory layout of tensor cores for convolutions. Raises `InputError` if either is not a
    boolean.
    """
    for name, value in (("compile", compile), ("channels_last", channels_last)):
        if not isinstance(value, bool):
            raise InputError(f"{name}={value}: give true or false")
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if compile:
        model.compile(options=None if torch.cuda.is_available() else {"freezing": True})
    return model


@contextmanager
def forward_in(precision: str, device: torch.device, model: object = None) -> Iterator[None]:
    """Context for a forward pass of `model` on `device`: autocast to one of `PRECISIONS`.

    On the CPU, oneDNN computes the matrix products, unless the model is compiled (see `onednn.py`).
    """
    dtype = PRECISIONS[precision]
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=dtype, enabled=dtype is not None))
        if device.type == "cpu" and mkldnn.is_available() and getattr(model, "_compiled_call_impl", None) is None:
            stack.enter_context(OneDNN())
        yield
