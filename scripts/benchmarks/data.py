"""What a training image costs on one core."""

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
        data = SegmentationDataset(root, "%.jpg", 20, masks="%.png", hide=[15, 16, 17, 18, 19], transform=transform)
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
