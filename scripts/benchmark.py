"""Measure speed: what MaskCLIP computes against the textbook way, in one process, on random weights.

    python scripts/benchmark.py                     # or: make bench
    python scripts/benchmark.py data                # decoding and augmentation, on one core
    python scripts/benchmark.py --architecture RN50-quickgelu --size 512 683 --image 480 640 --classes 171

The textbook way runs the whole tower with its last attention, then resizes the logits to the input size, again to the
image's, takes a softmax and the argmax. The two take turns; times are medians, ratios are the medians of the turns.
Operations are counted, not measured: floating-point operations of the image tower by strategy, two for a multiplication
and an addition.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import cv2  # noqa: E402 - after the path, so that it runs from a checkout
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from maskclip.clip import DenseCLIP, load_clip  # noqa: E402
from maskclip.clip.loading import create  # noqa: E402
from maskclip.data.dataset import Draw, SegmentationDataset  # noqa: E402
from maskclip.data.images import read_image, write_mask  # noqa: E402
from maskclip.data.transforms import TrainTransform  # noqa: E402
from maskclip.functional import resize, upsample_logits  # noqa: E402
from maskclip.results import device_name  # noqa: E402


def seconds(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def compare(name: str, ours: Callable[[], object], textbook: Callable[[], object], runs: int, device: torch.device) -> None:
    """Print one row: median seconds of both and the median ratio, after one turn that is not counted."""
    turns = [(seconds(textbook, device), seconds(ours, device)) for _ in range(runs + 1)][1:]
    a, b = (statistics.median(turn[i] for turn in turns) for i in (0, 1))
    ratio = statistics.median(turn[0] / turn[1] for turn in turns)
    print(f"{name:<24}{a:>12.3f}{b:>12.3f}{ratio:>10.2f}x")


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


def milliseconds(call: Callable[[int], object], runs: int) -> float:
    """Of one call, the median of `runs` rounds of 40 calls, which get the numbers 0, 1, 2 ..."""
    call(0)
    rounds = []
    for _ in range(runs):
        start = time.perf_counter()
        for number in range(40):
            call(number)
        rounds.append((time.perf_counter() - start) / 40)
    return 1000 * statistics.median(rounds)


def benchmark_data(runs: int) -> None:
    """Print what a training image costs on one core: a 500 x 375 JPEG and its mask to a crop of 512 x 512, step by step."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        scene = rng.integers(0, 255, (16, 21, 3), dtype=np.uint8)
        Image.fromarray(scene).resize((500, 375), Image.Resampling.BICUBIC).save(root / "x.jpg", quality=90)
        write_mask(
            root / "x.png", np.kron(rng.integers(0, 20, (15, 20)), np.ones((25, 25))).astype(np.uint8), [(i, i, i) for i in range(20)]
        )
        transform = TrainTransform(512, 512, 2048)
        data = SegmentationDataset(root, "{}.jpg", 20, masks="{}.png", hide=[15, 16, 17, 18, 19], transform=transform)
        image, mask = read_image(root / "x.jpg"), data.labels("x")
        steps: dict[str, Callable[[int], object]] = {
            "read the image": lambda _: read_image(root / "x.jpg"),
            "read and check the mask": lambda _: data.labels("x", [15, 16, 17, 18, 19]),
            "scale, crop, flip, pad": lambda number: plain(image, mask, number),
            "the same and colours": lambda number: transform(image, mask, number),
            "all, to tensors": lambda number: data[Draw(0, number)],
        }
        plain = TrainTransform(512, 512, 2048, colour=False)
        print(f"{device_name(torch.device('cpu'))}, one core, median of {runs} rounds of 40\n{'':<28}{'ms':>8}")
        times = {name: milliseconds(step, runs) for name, step in steps.items()}
    for name, value in times.items():
        print(f"{name:<28}{value:>8.2f}")
    print(f"{'images per second and core':<28}{1000 / times['all, to tensors']:>8.0f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("what", nargs="?", choices=("model", "data"), default="model", help="(default: %(default)s)")
    add("--architecture", default="ViT-B-16-quickgelu", help="any of open_clip's (default: %(default)s)")
    add("--size", type=int, nargs=2, default=(520, 693), metavar=("H", "W"), help="input of the network (default: 520 693)")
    add("--image", type=int, nargs=2, default=(375, 500), metavar=("H", "W"), help="size of the label map (default: 375 500)")
    add("--classes", type=int, default=59, help="(default: %(default)s)")
    add("--runs", type=int, default=5, help="turns (default: %(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    args = parse()
    if args.what == "data":
        benchmark_data(args.runs)
        return
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
