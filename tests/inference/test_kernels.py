"""Another library computes the same: within rounding, and only where it is meant to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from maskclip import InputError
from maskclip.clip.blocks import OpenCLIPBlock
from maskclip.inference.kernels import accelerate, forward_in

CPU = torch.device("cpu")


class Attention(nn.Module):
    """A block of open_clip, as towers run it, with a linear layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = ResidualAttentionBlock(64, 4), nn.Linear(64, 96)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(OpenCLIPBlock(self.block, prefix=1)(x))


def operators(model: nn.Module, x: Tensor, precision: str = "fp32") -> tuple[Tensor, set[str]]:
    """The result, and which operators of torch computed it."""
    with torch.inference_mode(), torch.profiler.profile(acc_events=True) as seen, forward_in(precision, CPU, model):
        result = model(x)
    return result, {event.key for event in seen.key_averages()}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Attention().eval()


def test_float32_layers_go_to_onednn_and_change_within_rounding(model: nn.Module) -> None:
    x = torch.randn(2, 250, 64)
    with torch.no_grad():
        expected = model(x)
    found, used = operators(model, x)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert "aten::mkldnn_convolution" in used and "aten::addmm" not in used
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in used and "aten::_native_multi_head_attention" not in used


def test_attention_in_bfloat16_is_attention(model: nn.Module) -> None:
    x = torch.randn(2, 250, 64)
    with torch.no_grad():
        expected = model(x)
    found, used = operators(model, x, "bf16")
    assert found.dtype == torch.bfloat16 and "aten::_scaled_dot_product_flash_attention_for_cpu" not in used
    assert (found.float() - expected).norm() / expected.norm() < 0.01


def test_half_precision_copies_no_weights() -> None:
    """torch multiplies rows that do not follow each other by a copy of the weights for each of them: minutes for seconds."""
    layer, x = nn.Linear(64, 96), torch.randn(250, 2, 64).transpose(0, 1)
    found, used = operators(layer, x, "bf16")
    assert "aten::addmm" in used and "aten::bmm" not in used
    torch.testing.assert_close(found.float(), layer(x), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_scale_of_attention(scale: float | None) -> None:
    q, k, v = (torch.randn(2, 3, 300, 16, dtype=torch.bfloat16) for _ in range(3))
    expected = (q.double() @ k.double().transpose(2, 3) * (0.25 if scale is None else scale)).softmax(-1) @ v.double()
    with torch.inference_mode(), forward_in("fp32", CPU):
        found = F.scaled_dot_product_attention(q, k, v, scale=scale)
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=0.02)


def test_attention_with_a_bias_is_left_alone() -> None:
    q, k, v = (torch.randn(1, 2, 700, 16, dtype=torch.bfloat16) for _ in range(3))
    bias = torch.full((700, 700), -torch.inf, dtype=torch.bfloat16).fill_diagonal_(0)
    with torch.inference_mode(), forward_in("fp32", CPU):
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, attn_mask=bias), v)


def test_attention_of_groups_of_heads_and_linear_layers_of_one_output_are_left_alone() -> None:
    q, k = torch.randn(2, 8, 200, 16, dtype=torch.bfloat16), torch.randn(2, 4, 200, 16, dtype=torch.bfloat16)
    x, weight = torch.randn(30000, 12), torch.randn(12)
    with torch.inference_mode(), forward_in("fp32", CPU):
        found = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
        torch.testing.assert_close(F.linear(x, weight), x @ weight, atol=1e-5, rtol=1e-5)
    many = k.repeat_interleave(2, dim=1).double()
    torch.testing.assert_close(found.double(), (q.double() @ many.mT * 0.25).softmax(-1) @ many, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("shape", [(5,), (2500,), (3, 1000), (2, 300, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_of_every_shape(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = nn.Linear(12, 20, bias=bias), torch.randn(*shape, 12)
    with torch.inference_mode():
        expected = layer.double()(x.double())
        layer.float()
        with forward_in("fp32", CPU, layer):
            found = layer(x.transpose(0, -2).contiguous().transpose(0, -2))  # not contiguous
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_block_avoids_the_fast_path_of_torch_without_its_process_wide_switch(model: nn.Module) -> None:
    x = torch.randn(2, 250, 64)
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.inference_mode(), torch.profiler.profile(acc_events=True) as seen, forward_in("fp32", CPU, model):
        assert torch.backends.mha.get_fastpath_enabled()
        model(x)
    used = {event.key for event in seen.key_averages()}
    assert "aten::_native_multi_head_attention" not in used and "aten::_scaled_dot_product_flash_attention_for_cpu" in used


def test_accelerate_changes_the_layout_and_is_compiled_when_called() -> None:
    model = nn.Conv2d(3, 4, 3)
    assert accelerate(model) is model and model.weight.is_contiguous()
    assert accelerate(model, channels_last=True).weight.is_contiguous(memory_format=torch.channels_last)
    for name in ("compile", "channels_last"):
        with pytest.raises(InputError, match=rf"inference\.{name}=yes: give true or false"):
            accelerate(model, **{name: "yes"})  # type: ignore[arg-type]
