"""Measure speed: what this project computes against the textbook way, in one process, on random weights.

    python scripts/benchmark.py                                       # or: make bench
    python scripts/benchmark.py --case 0 --precision fp32,bf16 --compile
    python scripts/benchmark.py labels                                # from coarse logits to labels alone
    python scripts/benchmark.py memory                                # a picture of 24 megapixels, 459 classes
    python scripts/benchmark.py operations --architecture RN50-quickgelu --size 512 683
    python scripts/benchmark.py text                                  # class names in 85 templates, cut or at the full context
    python scripts/benchmark.py training --experiment context_zero_shot --batch 16 --precision bf16
    python scripts/benchmark.py data                                  # decoding and augmentation, on one core

The textbook way runs the whole tower with its last attention in float32, resizes the logits to the input size, again to the
image's, takes a softmax and the argmax. The two take turns; times are medians, ratios are the medians of the turns. Memory
of inference and labels is what a call uses beyond weights and inputs; of memory and training, all of the process or the GPU.
Operations are counted, not measured: floating-point operations of the image tower, two for a multiplication and an addition.
"""

from __future__ import annotations

import argparse
import sys

import checkout  # noqa: F401 - puts src on the path
import torch
from benchmarks.data import benchmark_data
from benchmarks.inference import CASES, benchmark_inference, print_operations
from benchmarks.labels import benchmark_labels, benchmark_memory
from benchmarks.text import benchmark_text
from benchmarks.training import benchmark_training

from maskclip.errors import InputError
from maskclip.inference.kernels import PRECISIONS


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, whats = parser.add_argument, ("inference", "labels", "memory", "operations", "text", "training", "data")
    cases, numbers = "\n".join(f"{number}: {case}" for number, case in enumerate(CASES)), range(len(CASES))
    parser.epilog = f"cases of inference:\n{cases}"
    add("what", nargs="?", choices=whats, default="inference", help="(default: %(default)s)")
    add("--architecture", default="ViT-B-16-quickgelu", help="operations, text: any of open_clip's (default: %(default)s)")
    add("--size", type=_count, nargs=2, default=(520, 693), metavar=("H", "W"), help="operations: input of the network (default: 520 693)")
    add("--case", type=int, nargs="+", choices=numbers, default=[*numbers], metavar="N", help="inference: which (default: all)")
    add("--runs", type=_count, default=3, help="turns (default: %(default)s)")
    add("--experiment", default="context_zero_shot", help="training: whose step (default: %(default)s)")
    add("--batch", type=_count, help="images at a time (default: inference 1, training 2)")
    add(
        "--precision",
        type=_precisions,
        default="fp32",
        help="fp32, bf16 or fp16; inference: several, as in fp32,bf16 (default: %(default)s)",
    )
    add("--compile", action="store_true", help="torch.compile: also, in inference; the student, in training")
    add("--device", type=_device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.what == "training" and len(args.precision) > 1:
        parser.error("training: one --precision at a time")
    return args


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number, at least 1")
    return int(text)


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as cause:  # also: built without it
        raise argparse.ArgumentTypeError(f"{text}: there is none ({str(cause).splitlines()[0]})") from cause
    return device


def _precisions(text: str) -> list[str]:
    if strangers := [name for name in text.split(",") if name not in PRECISIONS]:
        raise argparse.ArgumentTypeError(f"{strangers[0]}: choose {', '.join(PRECISIONS)}")
    return text.split(",")


def main() -> None:
    args = parse()
    if args.what == "data":
        benchmark_data(args.runs)
    elif args.what == "labels":
        benchmark_labels(args.runs, args.device)
    elif args.what == "memory":
        benchmark_memory(args.device)
    elif args.what == "operations":
        print_operations(args.architecture, tuple(args.size))
    elif args.what == "text":
        benchmark_text(args.architecture, args.runs, args.device)
    elif args.what == "training":
        benchmark_training(args.experiment, args.batch or 2, args.precision[0], args.compile, args.device, args.runs)
    else:
        benchmark_inference(args.runs, args.device, args.precision, args.compile, args.batch or 1, args.case)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
