"""The devices that these tests run on.

`pytest -m gpu` (or `make test-gpu`) runs the CUDA cases, which are skipped where there is no GPU. The CPU cases keep the tests
themselves working. The tolerances on CUDA follow from rounding; they have not been measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.devices import DEVICES


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Convolutions on CUDA in float32, not in TF32, so that results can be compared with the CPU."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
