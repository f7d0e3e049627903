"""Devices as test parameters: the CPU, and CUDA, which is skipped where there is no GPU."""

from __future__ import annotations

import pytest
import torch


def cuda(*values: object, gpus: int = 1) -> object:
    """A test parameter that needs so many GPUs; `pytest -m gpu` selects it. Without values it is "cuda"."""
    too_few = pytest.mark.skipif(torch.cuda.device_count() < gpus, reason=f"needs {gpus} CUDA GPU{'s' * (gpus > 1)}")
    return pytest.param(*(values or ("cuda",)), marks=[pytest.mark.gpu, too_few], id="cuda")


def slow_cpu(*values: object) -> object:
    """A test parameter of the CPU that only `make test-all` runs. Without values it is "cpu"."""
    return pytest.param(*(values or ("cpu",)), marks=pytest.mark.slow, id="cpu")


DEVICES = ["cpu", cuda()]
SLOW_ON_CPU = [slow_cpu(), cuda()]
