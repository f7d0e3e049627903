"""Inference on a GPU gives the results of the CPU, in every precision, compiled or not, in bounded memory."""

from __future__ import annotations

import copy

import numpy as np
import open_clip
import pytest
import torch
from benchmarks.timing import growth
from conftest import ROOT
from support.devices import SLOW_ON_CPU
from support.refill import refill
from torch import Tensor

from maskclip import DenseCLIP, MaskCLIP, Protocol, Released, Student, Vocabulary, predict
from maskclip.inference.kernels import accelerate
from maskclip.textures.scenes import draw_scene

PROTOCOLS = {
    "whole": Protocol(),
    "resized": Protocol(short_side=160),
    "windows": Protocol(short_side=160, window=96, stride=64),
    "views": Protocol(scales=[96, 160], flip=True),
}


@pytest.fixture(scope="module")
def scenes() -> list[Tensor]:
    """Four drawn scenes of two sizes, (3, H, W) uint8."""
    drawn = [draw_scene(np.random.default_rng([1, number]), (96, 128 + 32 * (number % 2))).image for number in range(4)]
    return [torch.from_numpy(scene).permute(2, 0, 1) for scene in drawn]


@pytest.fixture
def refined(tiny: MaskCLIP) -> MaskCLIP:
    tiny.key_smoothing, tiny.prompt_denoising = 0.8, 0.5
    return tiny


@pytest.fixture
def student(tiny: MaskCLIP) -> Student:
    classes = {"names": list(tiny.vocabulary.names), "prompts": dict(tiny.vocabulary.prompts)}
    model = Student(classes, tiny.embedding_dim, encoder="resnet18", weights=None, decoder_channels=16, encoder_depth=3).eval()
    model.text_embeddings.copy_(tiny.text_embeddings)
    return model


def on(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    return copy.deepcopy(model).to(device)


def equal_pixels(model: torch.nn.Module, other: torch.nn.Module, scenes: list[Tensor], protocol: Protocol, of: Protocol) -> float:
    """The share of pixels that both models label alike."""
    pairs = zip(predict(model, scenes, protocol), predict(other, scenes, of), strict=True)
    return torch.cat([(a.labels.cpu() == b.labels.cpu()).flatten() for a, b in pairs]).float().mean().item()


@torch.no_grad()
def test_logits_of_maskclip(tiny: MaskCLIP, scenes: list[Tensor], device: torch.device) -> None:
    image = torch.stack(scenes[::2]).float() / 255
    torch.testing.assert_close(on(tiny, device)(image.to(device)).cpu(), tiny(image), atol=2e-5, rtol=0)


@torch.no_grad()
def test_logits_of_a_student(student: Student, scenes: list[Tensor], device: torch.device) -> None:
    image = torch.stack(scenes[::2]).float() / 255
    expected = student(image)
    tolerance = 1e-4 * expected.abs().max().item()
    torch.testing.assert_close(on(student, device)(image.to(device)).cpu(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("device", SLOW_ON_CPU)
@torch.no_grad()
def test_logits_and_labels_of_the_released_code(device: str) -> None:
    """ViT-B/16 against outputs of the authors' code, as in tests/models/test_released.py."""
    goldens = np.load(ROOT / "tests" / "assets" / "goldens.npz")
    clip = DenseCLIP(refill(open_clip.create_model("ViT-B-16-quickgelu"), "visual.").visual, normalisation="imagenet")
    embeddings = torch.from_numpy(goldens["text_ViT-B-16-quickgelu_five"])
    names = Vocabulary(["cat", "dog", "grass", "sky", "road"])
    model = MaskCLIP(clip, names, embeddings, released=Released(stretch=True)).to(device)
    image = torch.from_numpy(goldens["rgb_a"]).permute(2, 0, 1)[None].float().to(device) / 255
    logits = model(image)[0].cpu()
    torch.testing.assert_close(logits, torch.from_numpy(goldens["faithful_a_logits"]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_labels(refined: MaskCLIP, scenes: list[Tensor], device: torch.device, protocol: Protocol) -> None:
    assert equal_pixels(on(refined, device), refined, scenes, protocol, protocol) >= 0.999


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_labels_in_half_precision(tiny: MaskCLIP, scenes: list[Tensor], device: torch.device, precision: str) -> None:
    assert equal_pixels(on(tiny, device), tiny, scenes, Protocol(precision=precision), Protocol()) >= 0.97


def test_soft_outputs_and_features(tiny: MaskCLIP, scenes: list[Tensor], device: torch.device) -> None:
    arguments = {"soft": ("confidence", "margin", "entropy"), "top": 3, "features": True}
    (ours,), (expected,) = (predict(model, scenes[:1], **arguments) for model in (on(tiny, device), tiny))  # type: ignore[arg-type]
    assert ours.labels.device.type == device.type
    for name in ("confidence", "margin", "entropy", "top_probabilities"):
        torch.testing.assert_close(getattr(ours, name).cpu(), getattr(expected, name), atol=1e-3, rtol=0)
    assert ours.features is not None and expected.features is not None
    torch.testing.assert_close(ours.features.features.cpu(), expected.features.features, atol=1e-4, rtol=0)


@pytest.mark.parametrize("device", SLOW_ON_CPU)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_labels_of_a_compiled_model(tiny: MaskCLIP, scenes: list[Tensor], device: str, precision: str) -> None:
    compiled = accelerate(on(tiny, torch.device(device)), compile=True, channels_last=True)
    least = 0.999 if precision == "fp32" else 0.97
    assert equal_pixels(compiled, tiny, scenes[::2], Protocol(precision=precision), Protocol()) >= least


@torch.inference_mode()
def test_memory_does_not_grow_with_classes_times_pixels(tiny: MaskCLIP, device: torch.device) -> None:
    """Logits of 459 classes at every pixel of 1000 x 1400 would take 2.6 GB."""
    embeddings = torch.nn.functional.normalize(torch.randn(459, tiny.embedding_dim), dim=1)
    model = MaskCLIP(tiny.clip, Vocabulary([f"class {number}" for number in range(459)]), embeddings).to(device)
    image = torch.randint(0, 256, (3, 1000, 1400), dtype=torch.uint8)
    predict(model, [image[:, :100, :140]], Protocol(short_side=96))
    grown = growth(lambda: predict(model, [image], Protocol(short_side=96)), device)
    assert grown is None or grown < {"cpu": 0.2, "cuda": 1.3}[device.type]  # a tile of logits on CUDA is 0.27 GB
