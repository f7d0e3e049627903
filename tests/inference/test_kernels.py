"""Faster kernels return the results of the plain forward pass up to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from maskclip import InputError
from maskclip.clip.blocks import OpenCLIPBlock
from maskclip.inference.kernels import accelerate, forward_in

CPU = torch.device("cpu")
LARGE, SMALL = 250, 3
"""Numbers of tokens: oneDNN takes over for large inputs only."""


@contextmanager
def accelerated(precision: str = "fp32") -> Iterator[None]:
    with torch.inference_mode(), forward_in(precision, CPU):
        yield


class Attention(nn.Module):
    """A block of open_clip, as towers run it, followed by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = ResidualAttentionBlock(64, 4), nn.Linear(64, 96)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(OpenCLIPBlock(self.block, prefix=1)(x))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Attention().eval()


@pytest.mark.parametrize("tokens", [LARGE, SMALL])
def test_float32_blocks(model: nn.Module, tokens: int) -> None:
    x = torch.randn(2, tokens, 64)
    with torch.no_grad():
        expected = model(x)
    with accelerated():
        torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-5)
        assert torch.backends.mha.get_fastpath_enabled()  # a process-wide switch, which other threads may rely on


@pytest.mark.parametrize("tokens", [LARGE, SMALL])
def test_bfloat16_blocks(model: nn.Module, tokens: int) -> None:
    x = torch.randn(2, tokens, 64)
    with torch.no_grad():
        expected = model(x)
    with accelerated("bf16"):
        result = model(x)
    assert result.dtype == torch.bfloat16
    assert (result.float() - expected).norm() / expected.norm() < 0.01


def test_threads_get_the_results_of_one_thread(model: nn.Module) -> None:
    inputs = [torch.randn(1, LARGE * (1 + number % 2), 64) for number in range(4)]

    def run(number: int) -> Tensor:
        with accelerated("bf16" if number % 3 else "fp32"):
            return model(inputs[number % 4])

    expected = [run(number) for number in range(12)]
    with ThreadPoolExecutor(4) as threads:
        for result, alone in zip(threads.map(run, range(12)), expected, strict=True):
            torch.testing.assert_close(result, alone)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_scaled_attention(scale: float | None) -> None:
    q, k, v = (torch.randn(2, 3, 300, 16, dtype=torch.bfloat16) for _ in range(3))
    expected = (q.double() @ k.double().transpose(2, 3) * (0.25 if scale is None else scale)).softmax(-1) @ v.double()
    with accelerated():
        result = F.scaled_dot_product_attention(q, k, v, scale=scale)
    torch.testing.assert_close(result.double(), expected, atol=0.02, rtol=0.02)


def test_masked_and_causal_attention() -> None:
    q, k, v = (torch.randn(1, 2, 700, 16, dtype=torch.bfloat16) for _ in range(3))
    diagonal = torch.full((700, 700), -torch.inf, dtype=torch.bfloat16).fill_diagonal_(0)
    with accelerated():
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, attn_mask=diagonal), v)
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, is_causal=True)[..., 0, :], v[..., 0, :])


def test_grouped_heads() -> None:
    q, k = torch.randn(2, 8, 200, 16, dtype=torch.bfloat16), torch.randn(2, 4, 200, 16, dtype=torch.bfloat16)
    with accelerated():
        result = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    repeated = k.repeat_interleave(2, dim=1).double()
    torch.testing.assert_close(result.double(), (q.double() @ repeated.mT * 0.25).softmax(-1) @ repeated, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("shape", [(5,), (2500,), (3, 1000), (2, 300, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_of_every_shape(shape: tuple[int, ...], bias: bool) -> None:
    layer = nn.Linear(12, 20, bias=bias)
    x = torch.randn(*shape, 12).transpose(0, -2).contiguous().transpose(0, -2)  # not contiguous
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.03)):
        with accelerated(precision):
            result = layer(x)
        assert result.shape == exact.shape
        torch.testing.assert_close(result.double(), exact, atol=tolerance, rtol=tolerance)


def test_linear_layers_with_a_vector_as_weight() -> None:
    x, weight = torch.randn(30000, 12), torch.randn(12)
    with accelerated():
        torch.testing.assert_close(F.linear(x, weight), x @ weight, atol=1e-5, rtol=1e-5)


def test_accelerate_changes_the_memory_layout() -> None:
    model = nn.Conv2d(3, 4, 3)
    assert accelerate(model) is model and model.weight.is_contiguous()
    assert accelerate(model, channels_last=True).weight.is_contiguous(memory_format=torch.channels_last)
    for name in ("compile", "channels_last"):
        with pytest.raises(InputError, match=rf"{name}=yes: give true or false"):
            accelerate(model, **{name: "yes"})  # type: ignore[arg-type]
