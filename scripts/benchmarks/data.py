"""Time of a training image on one core."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.timing import milliseconds
from maskclip.data.dataset import Draw, SegmentationDataset
from maskclip.data.transforms import TrainTransform
from maskclip.evaluation.cards import device_name
from maskclip.images.reading import read_image
from maskclip.images.writing import write_mask

UNSEEN = [15, 16, 17, 18, 19]


def benchmark_data(runs: int) -> None:
    """Print the milliseconds of each step from a 500 x 375 JPEG with its mask to a crop of 512 x 512, on one core."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_sample(root)
        transform, without_colour = TrainTransform(512, 512, 2048), TrainTransform(512, 512, 2048, colour=False)
        data = SegmentationDataset(root, "%.jpg", 20, masks="%.png", hide=UNSEEN, transform=transform)
        image, mask = read_image(root / "x.jpg"), data.labels("x")
        steps: dict[str, Callable[[int], object]] = {
            "read the image": lambda _: read_image(root / "x.jpg"),
            "read and check the mask": lambda _: data.labels("x", UNSEEN),
            "scale, crop, flip, pad": lambda number: without_colour(image, mask, number),
            "the same and change colours": lambda number: transform(image, mask, number),
            "all steps, to tensors": lambda number: data[Draw(0, number)],
        }
        print(f"{device_name(torch.device('cpu'))}, one core, median of {runs} rounds of 40\n{'':<28}{'ms':>8}")
        times = {name: milliseconds(step, runs) for name, step in steps.items()}
    for name, value in times.items():
        print(f"{name:<28}{value:>8.2f}")
    print(f"{'images per second and core':<28}{1000 / times['all steps, to tensors']:>8.0f}")


def write_sample(root: Path) -> None:
    """Write x.jpg, smooth random colours, and x.png, a mask of 20 classes in blocks."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (16, 21, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(root / "x.jpg", quality=90)
    mask = np.kron(random.integers(0, 20, (15, 20)), np.ones((25, 25))).astype(np.uint8)
    write_mask(root / "x.png", mask, [(i, i, i) for i in range(20)])
