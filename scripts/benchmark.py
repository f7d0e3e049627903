"""Measure speed: what MaskCLIP computes against the textbook way, in one process, on random weights.

    python scripts/benchmark.py                     # or: make bench
    python scripts/benchmark.py data                # decoding and augmentation, on one core
    python scripts/benchmark.py training --experiment context_zero_shot --batch 16 --precision bf16
    python scripts/benchmark.py --architecture RN50-quickgelu --size 512 683 --image 480 640 --classes 171

The textbook way runs the whole tower with its last attention, then resizes the logits to the input size, again to the
image's, takes a softmax and the argmax. The two take turns; times are medians, ratios are the medians of the turns.
Operations are counted, not measured: floating-point operations of the image tower by strategy, two for a multiplication
and an addition.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import torch  # noqa: E402 - after the path, so that it runs from a checkout
from benchmarks.data import benchmark_data  # noqa: E402
from benchmarks.timing import compare  # noqa: E402
from benchmarks.training import benchmark_training  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from maskclip.clip import DenseCLIP, load_clip  # noqa: E402
from maskclip.clip.loading import create  # noqa: E402
from maskclip.functional import resize, upsample_logits  # noqa: E402
from maskclip.results import device_name  # noqa: E402


def operations(architecture: str, size: tuple[int, int]) -> dict[str, int]:
    """Floating-point operations of one image for every strategy of the tower, and with keys; counted on the meta device."""
    counts = {}
    with torch.device("meta"), torch.no_grad():
        tower = create(architecture, with_text=False).visual
        strategies = [name for name in DenseCLIP(tower).reader.strategies if name != "proxyclip"]  # it depends on the proxy
        for name, keys in [*((name, False) for name in strategies), ("maskclip", True)]:
            clip = DenseCLIP(tower, name).to("meta")
            with FlopCounterMode(display=False) as counter:
                clip(torch.empty(1, 3, *size), with_keys=keys)
            counts[f"{name}, with keys" if keys else name] = counter.get_total_flops()
    return counts


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("what", nargs="?", choices=("model", "data", "training"), default="model", help="(default: %(default)s)")
    add("--architecture", default="ViT-B-16-quickgelu", help="any of open_clip's (default: %(default)s)")
    add("--size", type=int, nargs=2, default=(520, 693), metavar=("H", "W"), help="input of the network (default: 520 693)")
    add("--image", type=int, nargs=2, default=(375, 500), metavar=("H", "W"), help="size of the label map (default: 375 500)")
    add("--classes", type=int, default=59, help="(default: %(default)s)")
    add("--runs", type=int, default=5, help="turns (default: %(default)s)")
    add("--experiment", default="context_zero_shot", help="training: whose step (default: %(default)s)")
    add("--batch", type=int, default=2, help="training: crops a step (default: %(default)s)")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="training (default: %(default)s)")
    add("--compile", action="store_true", help="training: torch.compile the student")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.what == "data":
        benchmark_data(args.runs)
    elif args.what == "training":
        benchmark_training(args.experiment, args.batch, args.precision, args.compile, torch.device(args.device), args.runs)
    else:
        benchmark_model(args)


@torch.inference_mode()
def benchmark_model(args: argparse.Namespace) -> None:
    """Print how the tower and the label stage compare with the textbook way, and the operations of every strategy."""
    device, size, image_size = torch.device(args.device), tuple(args.size), tuple(args.image)
    model = load_clip(args.architecture, None)
    full, values = (DenseCLIP(model.visual, strategy).to(device) for strategy in ("clip", "maskclip"))
    image = torch.rand(1, 3, *size, device=device)
    grid = values(image)[0].shape[2:]
    logits = torch.randn(1, args.classes, *grid, device=device)
    covered = values.covered_size(*size)
    print(f"{args.architecture}, {size[0]}x{size[1]} -> {image_size[0]}x{image_size[1]}, {args.classes} classes, float32, batch 1")
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads, {args.runs} turns")
    print(f"{'seconds':<24}{'textbook':>12}{'here':>12}{'ratio':>11}")
    compare("tower", lambda: values(image), lambda: full(image), args.runs, device)
    compare(
        "logits to labels",
        lambda: resize(upsample_logits(logits, covered, size), image_size).argmax(1),
        lambda: resize(resize(logits, size), image_size).softmax(1).argmax(1),
        args.runs,
        device,
    )
    print(f"\n{'operations of the tower':<24}{'GFLOP':>12}")
    for name, count in operations(args.architecture, size).items():
        print(f"{name:<24}{count / 1e9:>12.1f}")


if __name__ == "__main__":
    main()
