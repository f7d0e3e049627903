"""The label stage alone, coarse logits to labels: time by what the logits look like, and the memory of a large picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.inference import Case, Fixed, build
from benchmarks.timing import growth, take_turns
from maskclip import predict
from maskclip.evaluation.cards import device_name
from maskclip.functional import REMOVED, resize
from maskclip.tasks.callbacks import peak_memory

CASE = Case("ViT-B-16-quickgelu", 512, (480, 640), 171)
LARGE = Case("ViT-B-16-quickgelu", 512, (4000, 6000), 459)


def scenes(classes: int, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Coarse logits (1, C, h, w) of several kinds, by what a table calls them."""
    torch.manual_seed(0)
    rough = torch.randn(1, classes, *grid)
    smooth = torch.nn.functional.interpolate(torch.randn(1, classes, 5, 6), grid, mode="bicubic")
    few = rough.clone()
    few[:, 20:] = REMOVED
    return {
        "random": rough,
        "smooth (5 x 6 random values, bicubic)": smooth,
        "smooth, and noise of 0.3 of its size": smooth + 0.3 * rough,
        "random, 20 classes left by prompt denoising": few,
    }


@torch.inference_mode()
def benchmark_labels(runs: int, device: torch.device) -> None:
    """Print seconds of the textbook way (resize, resize, softmax, argmax) and of this project, and the memory of both."""
    model, seen = build(CASE, "maskclip", device), CASE.seen
    image = torch.zeros(3, *CASE.image, dtype=torch.uint8, device=device)
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {runs} turns")
    sizes = f"32x43 -> {seen[0]}x{seen[1]} -> {CASE.image[0]}x{CASE.image[1]}"
    print(f"{CASE.classes} classes, {sizes}\n{'':<46}{'textbook':>9}{'here':>9}{'ratio':>8}")
    for name, logits in scenes(CASE.classes, (32, 43)).items():
        ways = _ways(logits.to(device), model, image)
        turns = take_turns(*ways, runs, device)
        ratio = statistics.median(a / b for a, b in turns)
        one, other = (statistics.median(times) for times in zip(*turns, strict=True))
        print(f"{name:<46}{one:>8.4f}s{other:>8.4f}s{ratio:>7.1f}x", flush=True)
    ways = _ways(scenes(CASE.classes, (32, 43))["random"].to(device), model, image)
    both = [growth(way, device) for way in ways]
    print(f"{'memory beyond the start':<46}" + "".join("       - " if gb is None else f"{1000 * gb:>7.0f}MB" for gb in both))


def _ways(logits: Tensor, model: object, image: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    fixed = Fixed(model, logits)  # type: ignore[arg-type]
    return (
        lambda: resize(resize(logits, CASE.seen), CASE.image).softmax(1).argmax(1),
        lambda: predict(fixed, [image], CASE.protocol),
    )


@torch.inference_mode()
def benchmark_memory(device: torch.device) -> None:
    """Print the memory that a picture of 24 megapixels takes with 459 classes: labels alone, then with all soft outputs."""
    model = build(LARGE, "maskclip", device)
    image = torch.randint(0, 256, (3, *LARGE.image), dtype=torch.uint8, device=device)
    print(f"{device_name(device)}, torch {torch.__version__}\n{LARGE}\npeak memory in GB")
    print(f"{'before':<46}{peak_memory(device):>8.2f}", flush=True)
    predict(model, [image], LARGE.protocol)
    print(f"{'labels':<46}{peak_memory(device):>8.2f}", flush=True)
    predict(model, [image], LARGE.protocol, ("confidence", "margin", "entropy"), 3)
    print(f"{'and confidence, margin, entropy, 3 best classes':<46}{peak_memory(device):>7.2f}", flush=True)
