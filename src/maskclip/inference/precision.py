"""Full precision for float32 matrix products, whatever the process uses elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from maskclip.process_wide import Held


def _matmul_precision() -> tuple[str, ...]:
    """How torch multiplies float32 matrices, on CUDA and on the CPU."""
    if FP32_PRECISION:
        return tuple(switch.fp32_precision for switch in FP32_PRECISION)
    return (torch.get_float32_matmul_precision(),)


def _set_matmul_precision(values: tuple[str, ...]) -> None:
    if not FP32_PRECISION:
        torch.set_float32_matmul_precision(values[0])
    for switch, value in zip(FP32_PRECISION, values, strict=False):
        switch.fp32_precision = "none"  # inherits torch.backends.fp32_precision, which may already be `value`
        if switch.fp32_precision != value:
            switch.fp32_precision = value


FP32_PRECISION: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul] if hasattr(torch.backends.mkldnn, "matmul") else []
"""The switches of torch 2.9 and newer, empty for older versions. Once these are used, the older function raises an error."""

FULL_PRECISION: Held[tuple[str, ...]] = Held(_matmul_precision, _set_matmul_precision, ("ieee", "ieee") if FP32_PRECISION else ("highest",))
"""Float32 products without TF32 and bfloat16. Torch has no such option for a single product, only for the process."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Context without autocast, TF32 and bfloat16 products: logits of close classes differ in their last digits only."""
    with FULL_PRECISION, torch.autocast(device.type, enabled=False):
        yield
