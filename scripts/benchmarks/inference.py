"""Prediction against a baseline: time and memory of the pipeline and its parts, in every precision."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import growth, median_seconds, seconds, take_turns
from maskclip import MaskCLIP, Protocol, Vocabulary, predict
from maskclip.clip.dense import DenseCLIP
from maskclip.clip.loading import create, load_clip
from maskclip.evaluation.cards import device_name
from maskclip.files import CHECKOUT
from maskclip.functional import cosine_logits, resize
from maskclip.inference.kernels import PRECISIONS, accelerate, forward_in
from maskclip.programs.config import build as build_node
from maskclip.programs.config import words_of
from maskclip.textures.scenes import draw_scene

Size = tuple[int, int]
CONF = CHECKOUT / "conf"


@dataclass(frozen=True)
class Case:
    """An image of `image` = (height, width) pixels, scaled to `short_side`, whole or in windows of 224 with stride 112."""

    architecture: str
    short_side: int
    image: Size
    classes: int
    windows: bool = False

    def __str__(self) -> str:
        height, width = self.input_size
        sizes = f"{height}x{width} -> {self.image[0]}x{self.image[1]}"
        windows = ", windows 224/112" if self.windows else ""
        return f"{self.architecture.removesuffix('-quickgelu')}, {sizes}, {self.classes} classes{windows}"

    @property
    def protocol(self) -> Protocol:
        return Protocol(self.short_side, window=224, stride=112) if self.windows else Protocol(self.short_side)

    @property
    def input_size(self) -> Size:
        return self.protocol.input_sizes(*self.image)[0]


CASES = (
    Case("ViT-B-16-quickgelu", 520, (375, 500), 59),
    Case("ViT-B-16-quickgelu", 512, (480, 640), 171),
    Case("ViT-B-16-quickgelu", 512, (750, 1000), 459),
    Case("ViT-B-16-quickgelu", 336, (375, 500), 59, windows=True),
    Case("RN50-quickgelu", 520, (375, 500), 59),
    Case("RN50-quickgelu", 512, (480, 640), 171),
)


@dataclass(frozen=True)
class Variant:
    """How the project runs a case."""

    precision: str
    compiled: bool
    batch: int

    def __str__(self) -> str:
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        return f"project, {self.precision}{', compiled' * self.compiled}{batch}"


class Baseline:
    """A straightforward pipeline: the whole tower in float32, one image or window at a time, all maps at full size."""

    def __init__(self, model: MaskCLIP, tower: DenseCLIP, case: Case) -> None:
        self.text, self.tower, self.case = model.text_embeddings, tower, case

    def __call__(self, image: Tensor) -> Tensor:
        pixels = resize(image[None].float() / 255, self.case.input_size)
        return self.labels(self.windows(pixels) if self.case.windows else self.logits(pixels))

    def logits(self, pixels: Tensor) -> Tensor:
        return cosine_logits(self.tower(pixels)[0], self.text)

    def windows(self, pixels: Tensor) -> Tensor:
        height, width = self.case.input_size
        total, count = pixels.new_zeros(1, self.case.classes, height, width), pixels.new_zeros(1, 1, height, width)
        for top in range(0, max(height - 224, 0) + 112, 112):
            for left in range(0, max(width - 224, 0) + 112, 112):
                y, x = min(top, height - 224), min(left, width - 224)
                total[..., y : y + 224, x : x + 224] += resize(self.logits(pixels[..., y : y + 224, x : x + 224]), (224, 224))
                count[..., y : y + 224, x : x + 224] += 1
        return total / count

    def labels(self, logits: Tensor) -> Tensor:
        return resize(resize(logits, self.case.input_size), self.case.image).softmax(1).argmax(1)


class FixedLogits:
    """A model that returns the same logits for every image, so that a prediction costs only its label stage."""

    def __init__(self, model: MaskCLIP, logits: Tensor) -> None:
        self.model, self.logits = model, logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, image: Tensor, **_: Any) -> Tensor:
        return self.logits


def operations(architecture: str, size: Size) -> dict[str, int]:
    """Floating-point operations of one image for each strategy, and for maskclip with keys, counted on the meta device."""
    counts = {}
    with torch.device("meta"), torch.no_grad():
        tower = create(architecture, with_text=False).visual
        strategies = [name for name in DenseCLIP(tower).strategies if name != "proxyclip"]  # it depends on the proxy
        for name, keys in [*((name, False) for name in strategies), ("maskclip", True)]:
            clip = DenseCLIP(tower, name).to("meta")
            with FlopCounterMode(display=False) as counter:
                clip(torch.empty(1, 3, *size), with_keys=keys)
            counts[f"{name}, with keys" if keys else name] = counter.get_total_flops()
    return counts


def rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a large matrix product by the fastest library: what the machine can reach."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    kernel, rows = a[:, :, None, None], a.view(1, side, 1, side).permute(0, 3, 1, 2)
    products: list[Callable[[], object]] = [lambda: a @ a]
    if device.type == "cpu":
        products.append(lambda: torch.conv2d(rows, kernel))  # oneDNN, which a @ a does not use in float32
    return 2 * side**3 / min(seconds(product, device) for product in products for _ in range(5))


def build(case: Case, strategy: str, device: torch.device) -> MaskCLIP:
    """MaskCLIP with random weights and random text embeddings."""
    torch.manual_seed(0)
    clip = DenseCLIP(load_clip(case.architecture, None, with_text=False).visual, strategy)
    dim = clip(torch.zeros(1, 3, 224, 224))[0].shape[1]
    vocabulary = Vocabulary([f"class {number}" for number in range(case.classes)])
    return MaskCLIP(clip, vocabulary, torch.nn.functional.normalize(torch.randn(case.classes, dim), dim=1)).to(device)


@torch.inference_mode()
def benchmark_case(case: Case, runs: int, device: torch.device, variants: Sequence[Variant], rates: Mapping[str, float]) -> None:
    """Print one block: the baseline, then each variant of the project with its parts, its ratio and its memory."""
    model, plain = build(case, "maskclip", device), build(case, "clip", device)
    baseline = Baseline(plain, plain.clip, case)
    image = torch.randint(0, 256, (3, *case.image), dtype=torch.uint8, device=device)
    pixels = resize(image[None].float() / 255, case.input_size)
    work = None if case.windows else operations(case.architecture, case.input_size)
    print(f"\n{case}{'' if work is None else lower_bound(work, rates)}\n{HEADER}")
    total = median_seconds(lambda: baseline(image), runs, device)
    parts, coarse = [], None
    if work is not None:
        features = plain.clip(pixels)[0]
        coarse = cosine_logits(features, baseline.text)
        calls = (lambda: plain.clip(pixels), lambda: cosine_logits(features, baseline.text), lambda: baseline.labels(coarse))
        parts = [median_seconds(call, runs, device) for call in calls]
    speed = None if work is None else work["clip"] / parts[0]
    print_row("baseline, fp32", total, 1.0, parts, growth(lambda: baseline(image), device), speed)
    for variant in variants:
        project = accelerate(model, compile=variant.compiled, channels_last=True)
        protocol = Protocol(**{**case.protocol.settings, "precision": variant.precision, "batch_size": max(variant.batch, 8)})
        run = partial(predict, project, [image] * variant.batch, protocol)
        ratio, each = compare(run, lambda: baseline(image), variant.batch, runs, device)
        memory = growth(run, device)
        parts = [] if coarse is None else parts_of(project, pixels, coarse, case, variant, runs, device)
        print_row(str(variant), each, ratio, parts, memory, None if work is None else work["maskclip"] / parts[0])


def lower_bound(work: Mapping[str, int], rates: Mapping[str, float]) -> str:
    """The operations of the tower, and the seconds they take at the rate of large matrix products."""
    bounds = ", ".join(f"{name} {work['maskclip'] / rate:.3f} s" for name, rate in rates.items())
    counts = f"{work['clip'] / 1e9:.0f} GFLOP, or {work['maskclip'] / 1e9:.0f} GFLOP for the values alone"
    return f"\ntower: {counts}; at the rate of matrix products {bounds}"


def compare(
    project: Callable[[], object], baseline: Callable[[], object], batch: int, runs: int, device: torch.device
) -> tuple[float, float]:
    """The median ratio to the baseline, and the median seconds per image of the project."""
    turns = take_turns(baseline, project, runs, device)
    return statistics.median(batch * a / b for a, b in turns), statistics.median(b / batch for _, b in turns)


def parts_of(model: MaskCLIP, pixels: Tensor, coarse: Tensor, case: Case, variant: Variant, runs: int, device: torch.device) -> list[float]:
    """Seconds per image of the tower, the comparison with the text embeddings, and the label stage.

    A compiled model cannot be split: its comparison counts as part of the tower.
    """
    image = torch.zeros(3, *case.image, dtype=torch.uint8, device=device)
    batch = pixels.repeat(variant.batch, 1, 1, 1)
    features = torch.zeros(variant.batch, model.embedding_dim, *coarse.shape[-2:], device=device)

    def tower() -> None:
        with forward_in(variant.precision, device, model):
            if variant.compiled:
                model(batch)
            else:
                model.clip(batch)

    def head() -> None:
        with forward_in("fp32", device):
            cosine_logits(features, model.text_embeddings)

    def labels() -> None:
        predict(FixedLogits(model, coarse), [image], case.protocol)

    times = [median_seconds(part, runs, device) for part in (tower, head, labels)]
    return [times[0] / variant.batch, 0.0 if variant.compiled else times[1] / variant.batch, times[2]]


HEADER = f"{'':<34}{'s/image':>9}{'ratio':>8}{'tower':>9}{'head':>9}{'labels':>9}{'GB':>8}{'GFLOP/s':>9}"


def print_row(name: str, each: float, ratio: float, split: Sequence[float], memory: float | None, speed: float | None) -> None:
    parts = "".join(f"{part:>9.4f}" for part in split) or " " * 27
    rest = f"{'-' if memory is None else f'{memory:.2f}':>8}{'' if speed is None else f'{speed / 1e9:>9.0f}'}"
    print(f"{name:<34}{each:>9.4f}{ratio:>7.2f}x{parts}{rest}", flush=True)


def benchmark_inference(
    runs: int, device: torch.device, precisions: Sequence[str], compile_it: bool, batch: int, only: Sequence[int]
) -> None:
    """Print the machine, the rate of its matrix products, and a block for each case."""
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {runs} turns")
    rates = {name: rate(PRECISIONS[name] or torch.float32, device) for name in dict.fromkeys(("fp32", *precisions))}
    for precision in precisions:
        if precision != "fp32":
            share = 100 * agreement(precision, device)
            print(f"{precision}: {share:.2f} % of the pixels of textures scenes are labelled as in fp32 (shipped CLIP)")
    print(f"matrix products: {', '.join(f'{name} {value / 1e9:.0f}' for name, value in rates.items())} GFLOP/s")
    print("Random weights and pixels. No class can be pruned, which is the slowest case of the label stage.")
    for number in only:
        variants = [Variant(precision, compiled, batch) for compiled in (False, True)[: 1 + compile_it] for precision in precisions]
        benchmark_case(CASES[number], runs, device, variants, rates)


@torch.inference_mode()
def agreement(precision: str, device: torch.device, scenes: int = 30) -> float:
    """The share of pixels of textures scenes that the shipped CLIP labels alike in `precision` and in float32."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("eval", overrides=["model=maskclip_textures", "data=textures"])
    model = build_node(cfg.model, classes=Vocabulary(**words_of(cfg))).to(device)
    scene_images = (draw_scene(np.random.default_rng([1, number]), (96, 128)).image for number in range(scenes))
    images = [torch.from_numpy(image).permute(2, 0, 1) for image in scene_images]
    full, half = (predict(model, images, Protocol(precision=name)) for name in ("fp32", precision))
    return torch.stack([(a.labels == b.labels).float().mean() for a, b in zip(full, half, strict=True)]).mean().item()


def print_operations(architecture: str, size: Size) -> None:
    """Print the operations of each strategy."""
    print(f"{architecture} at {size[0]}x{size[1]}: operations of the tower\n{'':<24}{'GFLOP':>12}")
    for name, count in operations(architecture, size).items():
        print(f"{name:<24}{count / 1e9:>12.1f}")
