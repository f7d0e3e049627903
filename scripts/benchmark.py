"""Measure speed and memory, on random weights, against a straightforward baseline in the same process.

    python scripts/benchmark.py                                       # or: make bench
    python scripts/benchmark.py --case 0 --precision fp32,bf16 --compile
    python scripts/benchmark.py labels                                # coarse logits to labels
    python scripts/benchmark.py memory                                # an image of 24 megapixels, 459 classes
    python scripts/benchmark.py operations --architecture RN50-quickgelu --size 512 683
    python scripts/benchmark.py text                                  # text embeddings of 20 class names
    python scripts/benchmark.py training --precision fp32,bf16        # a training step of context_zero_shot
    python scripts/benchmark.py students --size 256 256               # training speed of the networks of students
    python scripts/benchmark.py data                                  # decoding and augmentation on one core
    python scripts/benchmark.py threads                               # training next to busy processes

The baseline of inference runs the whole tower in float32, resizes the logits to the input size, then to the image size, and
takes a softmax and the argmax. Baseline and project take turns. Times are medians of the turns, and ratios are medians of
the ratios within a turn. A ratio above 1 means that the project is faster.

Inference and labels report the memory that a call adds to weights and inputs. Memory and training report the peak of the
process or the GPU. Operations are counted, not measured: floating-point operations of the image tower, two for each
multiplication and addition.
"""

from __future__ import annotations

import argparse
import sys

import checkout  # noqa: F401 - puts src on the path
import torch
from benchmarks.data import benchmark_data
from benchmarks.inference import CASES, benchmark_inference, print_operations
from benchmarks.labels import benchmark_labels, benchmark_memory
from benchmarks.students import benchmark_students
from benchmarks.text import benchmark_text
from benchmarks.threads import benchmark_threads
from benchmarks.training import benchmark_training

from maskclip.errors import InputError
from maskclip.inference.kernels import PRECISIONS

BENCHMARKS = ("inference", "labels", "memory", "operations", "text", "training", "students", "data", "threads")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, numbers = parser.add_argument, range(len(CASES))
    parser.epilog = "cases of inference:\n" + "\n".join(f"{number}: {case}" for number, case in enumerate(CASES))
    add("benchmark", nargs="?", choices=BENCHMARKS, default="inference", help="what to measure (default: %(default)s)")
    add("--architecture", default="ViT-B-16-quickgelu", help="operations, text: an open_clip architecture (default: %(default)s)")
    add("--size", type=_count, nargs=2, default=(520, 693), metavar=("H", "W"), help="operations, students: input (default: 520 693)")
    add("--case", type=int, nargs="+", choices=numbers, default=[*numbers], metavar="N", help="inference: see below (default: all)")
    add("--runs", type=_count, default=3, help="turns (default: %(default)s)")
    add("--experiment", default="context_zero_shot", help="training: an experiment of conf/experiment (default: %(default)s)")
    add("--batch-size", type=_count, help="images in a call or a training step (default: inference 1, training and students 2)")
    add("--precision", type=_precisions, default="fp32", help="fp32, bf16, fp16 or a list of them (default: %(default)s)")
    add("--ingredients", action="store_true", help="training: also measure each faster implementation alone")
    add("--compile", action="store_true", help="inference: also measure a compiled model; training: compile the student")
    add("--device", type=_device, default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number, at least 1")
    return int(text)


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as cause:  # AssertionError: torch was built without the device
        raise argparse.ArgumentTypeError(f"{text} is not available ({str(cause).splitlines()[0]})") from cause
    return device


def _precisions(text: str) -> list[str]:
    if unknown := [name for name in text.split(",") if name not in PRECISIONS]:
        raise argparse.ArgumentTypeError(f"unknown precision {unknown[0]!r}: choose from {', '.join(PRECISIONS)}")
    return text.split(",")


def main() -> None:
    args = parse()
    if args.benchmark == "data":
        benchmark_data(args.runs)
    elif args.benchmark == "labels":
        benchmark_labels(args.runs, args.device)
    elif args.benchmark == "memory":
        benchmark_memory(args.device)
    elif args.benchmark == "operations":
        print_operations(args.architecture, tuple(args.size))
    elif args.benchmark == "text":
        benchmark_text(args.architecture, args.runs, args.device)
    elif args.benchmark == "threads":
        benchmark_threads(args.runs)
    elif args.benchmark == "students":
        benchmark_students(tuple(args.size), args.batch_size or 2, args.precision, args.device, args.runs)
    elif args.benchmark == "training":
        options = (args.compile, args.ingredients, args.device, args.runs)
        benchmark_training(args.experiment, args.batch_size or 2, args.precision, *options)
    else:
        benchmark_inference(args.runs, args.device, args.precision, args.compile, args.batch_size or 1, args.case)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
