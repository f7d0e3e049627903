"""The loss and the best classes of pixels from coarse logits, against `F.interpolate` of all logits at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.largest import Largest
from torch import Tensor

from maskclip.inference import upsampled
from maskclip.inference.upsampled import upsampled_cross_entropy, upsampled_max

IGNORED = 255
CASES = {
    "no padding": ((2, 5, 16, 16), (64, 64), (64, 64)),
    "odd size, padded": ((3, 7, 8, 16), (32, 64), (29, 51)),
    "stride 8": ((2, 60, 12, 8), (96, 64), (96, 64)),
    "one class": ((1, 1, 8, 8), (32, 32), (5, 31)),
    "no upsampling": ((2, 4, 32, 32), (32, 32), (32, 32)),
}


@pytest.fixture(params=[2**9, 2**13, 2**19], ids=["rows", "bands", "batch"], autouse=True)
def tile_values(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of one row of one image, of several rows, and of the whole batch."""
    monkeypatch.setitem(upsampled.TILE_VALUES, "cpu", request.param)


def make_labels(num_classes: int, batch: int, size: tuple[int, int]) -> Tensor:
    labels = torch.randint(num_classes, (batch, *size))
    return labels.masked_fill(torch.rand(labels.shape) < 0.3, IGNORED)


def plain(logits: Tensor, covered: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size=covered, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]


@pytest.mark.parametrize("case", CASES)
def test_cross_entropy_and_gradient_of_the_plain_formula(case: str) -> None:
    shape, covered, size = CASES[case]
    logits, labels = (3 * torch.randn(shape)).requires_grad_(), make_labels(shape[1], shape[0], size)
    loss = upsampled_cross_entropy(logits, labels, covered, IGNORED)
    expected = F.cross_entropy(plain(logits, covered, size), labels, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(2.5 * value, logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_gradient_in_float64() -> None:
    logits, labels = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True), make_labels(3, 2, (13, 11))
    assert torch.autograd.gradcheck(lambda x: upsampled_cross_entropy(x, labels, (16, 12), IGNORED), logits)


def test_ignored_pixels_have_neither_loss_nor_gradient() -> None:
    logits = torch.randn(2, 5, 8, 8, requires_grad=True)
    loss = upsampled_cross_entropy(logits, torch.full((2, 30, 32), IGNORED), (32, 32), IGNORED)
    assert loss == 0 and not torch.autograd.grad(loss, logits)[0].any()


def test_autocast_does_not_reach_the_loss() -> None:
    logits, labels = torch.randn(2, 5, 8, 8), make_labels(5, 2, (32, 32))
    exact = upsampled_cross_entropy(logits, labels, (32, 32), IGNORED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(upsampled_cross_entropy(logits, labels, (32, 32), IGNORED), exact)


@pytest.mark.parametrize("case", CASES)
def test_the_largest_logit_and_its_class(case: str) -> None:
    shape, covered, size = CASES[case]
    logits = torch.randn(shape)
    best, index = upsampled_max(logits, covered, size)
    expected = plain(logits, covered, size)
    torch.testing.assert_close(best, expected.amax(dim=1))
    torch.testing.assert_close(expected.gather(1, index.unsqueeze(1)).squeeze(1), best)
    assert (index == expected.argmax(dim=1)).float().mean() > 0.999


def test_no_tensor_of_classes_times_pixels() -> None:
    """60 classes at 256 x 256 pixels are 3.9 million values."""
    logits, labels = torch.randn(1, 60, 32, 32, requires_grad=True), torch.zeros(1, 256, 256, dtype=torch.long)
    with Largest() as largest:
        upsampled_cross_entropy(logits, labels, (256, 256), IGNORED).backward()
        upsampled_max(logits.detach(), (256, 256), (256, 256))
    assert largest.values <= 2**19
