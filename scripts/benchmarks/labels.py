"""The label stage alone, coarse logits to labels: its time for several kinds of logits, and its memory for a large image."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.inference import Case, FixedLogits, build
from benchmarks.timing import growth, take_turns
from maskclip import predict
from maskclip.evaluation.cards import device_name
from maskclip.functional import REMOVED, resize
from maskclip.tasks.callbacks import peak_memory

CASE = Case("ViT-B-16-quickgelu", 512, (480, 640), 171)
LARGE = Case("ViT-B-16-quickgelu", 512, (4000, 6000), 459)


def coarse_logits(classes: int, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Coarse logits (1, C, h, w) of several kinds, by the name of their row."""
    torch.manual_seed(0)
    rough = torch.randn(1, classes, *grid)
    smooth = torch.nn.functional.interpolate(torch.randn(1, classes, 5, 6), grid, mode="bicubic")
    few = rough.clone()
    few[:, 20:] = REMOVED
    return {
        "random": rough,
        "smooth (5 x 6 random values, bicubic)": smooth,
        "smooth, with 30 % noise": smooth + 0.3 * rough,
        "random, 20 classes left by prompt denoising": few,
    }


@torch.inference_mode()
def benchmark_labels(runs: int, device: torch.device) -> None:
    """Print the seconds of the baseline (resize, resize, softmax, argmax) and of this project, their ratio, and the memory of both."""
    model, (height, width) = build(CASE, "maskclip", device), CASE.input_size
    image = torch.zeros(3, *CASE.image, dtype=torch.uint8, device=device)
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {runs} turns")
    sizes = f"32x43 -> {height}x{width} -> {CASE.image[0]}x{CASE.image[1]}"
    print(f"{CASE.classes} classes, {sizes}\n{'':<46}{'baseline':>9}{'project':>9}{'ratio':>8}")
    kinds = coarse_logits(CASE.classes, (32, 43))
    for name, logits in kinds.items():
        turns = take_turns(*_both(logits.to(device), model, image), runs, device)
        ratio = statistics.median(a / b for a, b in turns)
        baseline, project = (statistics.median(times) for times in zip(*turns, strict=True))
        print(f"{name:<46}{baseline:>8.4f}s{project:>8.4f}s{ratio:>7.1f}x", flush=True)
    grown = [growth(call, device) for call in _both(kinds["random"].to(device), model, image)]
    print(f"{'memory that a call adds':<46}" + "".join("       - " if gb is None else f"{1000 * gb:>7.0f}MB" for gb in grown))


def _both(logits: Tensor, model: object, image: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    fixed = FixedLogits(model, logits)  # type: ignore[arg-type]
    return (
        lambda: resize(resize(logits, CASE.input_size), CASE.image).softmax(1).argmax(1),
        lambda: predict(fixed, [image], CASE.protocol),
    )


@torch.inference_mode()
def benchmark_memory(device: torch.device) -> None:
    """Print the peak memory after an image of 24 megapixels with 459 classes: labels alone, then with all soft outputs."""
    model = build(LARGE, "maskclip", device)
    image = torch.randint(0, 256, (3, *LARGE.image), dtype=torch.uint8, device=device)
    print(f"{device_name(device)}, torch {torch.__version__}\n{LARGE}\npeak memory in GB")
    print(f"{'model and image':<50}{peak_memory(device):>8.2f}", flush=True)
    predict(model, [image], LARGE.protocol)
    print(f"{'labels':<50}{peak_memory(device):>8.2f}", flush=True)
    predict(model, [image], LARGE.protocol, ("confidence", "margin", "entropy"), 3)
    print(f"{'labels, confidence, margin, entropy, 3 best classes':<50}{peak_memory(device):>8.2f}", flush=True)
