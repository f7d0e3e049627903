"""RN50 against an independent implementation in float64, from the paper's text and CLIP's architecture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.goldens import ComputedOnce, golden, golden_image, refilled_visual
from torch import Tensor

from maskclip import DenseCLIP, MaskCLIP, Released, Vocabulary
from maskclip.functional import resize
from maskclip.inference.labels import decide
from maskclip.inference.predict import rule_of

OFFICIAL = Released(imagenet_normalisation=True, channel_unit_keys=True, raw_votes=True, remove_all=True, softmax=True)
MEAN, STD = torch.tensor([123.675, 116.28, 103.53]).double(), torch.tensor([58.395, 57.12, 57.375]).double()
# of prompt denoising and of partial key smoothing; no probability in the images is close to them
THRESHOLDS = {"five": (0.217, 0.27224), "synth20": (0.5, 0.38419)}
SIZES = {"a": (300, 429), "b": (174, 250)}


class Independent:
    """CLIP's ModifiedResNet in float64, from its state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.w = {name: value.double() for name, value in state.items()}
        self.trunks: dict[bytes, Tensor] = {}

    def conv(self, x: Tensor, conv: str, norm: str, stride: int = 1, relu: bool = True) -> Tensor:
        kernel = self.w[f"{conv}.weight"]
        y = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, gain, bias = (self.w[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        y = (y - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * gain[:, None, None] + bias[:, None, None]
        return y.clamp(min=0) if relu else y

    def bottleneck(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = self.conv(x, f"{name}.conv1", f"{name}.bn1")
        y = F.avg_pool2d(self.conv(y, f"{name}.conv2", f"{name}.bn2"), stride)
        y = self.conv(y, f"{name}.conv3", f"{name}.bn3", relu=False)
        if f"{name}.downsample.0.weight" in self.w:
            x = self.conv(F.avg_pool2d(x, stride), f"{name}.downsample.0", f"{name}.downsample.1", relu=False)
        return (x + y).clamp(min=0)

    def trunk(self, pixels: Tensor) -> Tensor:
        """(1, 2048, h, w) of an RGB image (H, W, 3) in 0..255; computed once for each image."""
        key = pixels.numpy().tobytes()
        if key not in self.trunks:
            self.trunks[key] = self._trunk(pixels)
        return self.trunks[key]

    def _trunk(self, pixels: Tensor) -> Tensor:
        x = ((pixels.double() - MEAN) / STD).permute(2, 0, 1)[None]
        x = self.conv(x, "conv1", "bn1", stride=2)
        x = F.avg_pool2d(self.conv(self.conv(x, "conv2", "bn2"), "conv3", "bn3"), 2)
        for layer, blocks in enumerate((3, 4, 6, 3), start=1):
            for block in range(blocks):
                x = self.bottleneck(x, f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1)
        return x

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"attnpool.{name}.weight"].T + self.w[f"attnpool.{name}.bias"]

    def read(self, pixels: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Features (N, 1024) and keys (N, 2048) of all positions, row by row, and the grid."""
        x = self.trunk(pixels)[0]
        tokens = x.flatten(1).T
        return self.linear(self.linear(tokens, "v_proj"), "c_proj"), self.linear(tokens, "k_proj"), (x.shape[1], x.shape[2])

    def pooled(self, pixels: Tensor, heads: int = 32) -> Tensor:
        """Outputs (1 + N, 1024) of the attention pooling for all tokens, the mean token first."""
        x = self.trunk(pixels)[0]
        tokens, positions = x.flatten(1).T, self.w["attnpool.positional_embedding"]
        grid = positions[1:].T.reshape(1, -1, 7, 7)
        if x.shape[1:] != (7, 7):
            grid = F.interpolate(grid, size=x.shape[1:], mode="bicubic", align_corners=False)
        positions = torch.cat([positions[:1], grid[0].flatten(1).T])
        tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + positions
        q, k, v = (self.linear(tokens, f"{name}_proj") for name in "qkv")
        d = q.shape[1] // heads
        out = torch.zeros_like(v)
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            scores = q[:, part] @ k[:, part].T / d**0.5
            weights = (scores - scores.max(1, keepdim=True).values).exp()
            out[:, part] = weights / weights.sum(1, keepdim=True) @ v[:, part]
        return self.linear(out, "c_proj")


def refined(features: Tensor, keys: Tensor, text: Tensor, pd: float | None, ks: float | None) -> Tensor:
    """Cosines, prompt denoising and key smoothing (N, C) as in the released code, with the full N x N matrix."""
    logits = features / features.norm(dim=1, keepdim=True) @ text.double().T
    if pd is not None:
        certain = (100 * logits).softmax(1).max(0).values >= pd
        logits = torch.where(certain, logits, torch.tensor(-100.0).double())
    if ks is None:
        return logits
    p = (100 * logits).softmax(1)
    unit = keys / keys.norm(dim=0, keepdim=True)
    smoothed = (unit @ unit.T) @ p
    return torch.where((p.max(1).values < ks)[:, None], smoothed, p)


@pytest.fixture(scope="module")
def independent() -> Independent:
    return Independent(refilled_visual("RN50").state_dict())


@pytest.fixture(scope="module")
def clip() -> ComputedOnce:
    return ComputedOnce(DenseCLIP(refilled_visual("RN50"), normalisation="imagenet"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("text", ["five", "synth20"])
def test_logits_and_labels(independent: Independent, clip: ComputedOnce, text: str, name: str) -> None:
    pixels = golden(f"rgb_{name}")
    height, width = pixels.shape[:2]
    embeddings = golden("text_synth20_1024" if text == "synth20" else "text_RN50_five")
    features, keys, grid = independent.read(pixels)
    words = Vocabulary([str(i) for i in range(len(embeddings))])
    for pd, ks in ((None, None), (None, 1.0), (THRESHOLDS[text][0], None), (THRESHOLDS[text][0], 1.0), (None, THRESHOLDS[text][1])):
        expected = refined(features, keys, embeddings, pd, ks).T.unflatten(1, grid)
        ours = MaskCLIP(clip, words, embeddings, ks, pd, released=OFFICIAL)  # type: ignore[arg-type]
        logits = ours(golden_image(name))
        tolerance = 2e-6 if ks is None else 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(logits[0].double(), expected, atol=tolerance, rtol=0)
        both = [decide(resize(resize(x, (height, width)), SIZES[name]), rule_of(ours))["labels"] for x in (logits, expected[None].float())]
        assert (both[0] == both[1]).float().mean() >= 0.999


@torch.no_grad()
def test_the_thresholds_divide(independent: Independent) -> None:
    """The partial key smoothing of the test above smooths some positions and leaves others."""
    features, _, _ = independent.read(golden("rgb_a"))
    for text, key in (("five", "text_RN50_five"), ("synth20", "text_synth20_1024")):
        cosines = F.normalize(features, dim=1) @ golden(key).double().T
        smoothed = ((100 * cosines).softmax(1).max(1).values < THRESHOLDS[text][1]).double().mean()
        assert 0.2 < smoothed < 0.7


@torch.no_grad()
@pytest.mark.parametrize("width", [224, 320])
def test_attention_pooling_at_every_position(independent: Independent, width: int) -> None:
    pixels = golden("rgb_a")[:, :width]  # the native grid of 7 x 7, and one of 7 x 10
    clip = DenseCLIP(refilled_visual("RN50"), "clip", normalisation="imagenet")
    features, _ = clip(golden_image("a")[..., :width])
    torch.testing.assert_close(features[0].flatten(1).T.double(), independent.pooled(pixels)[1:], atol=5e-5, rtol=0)
