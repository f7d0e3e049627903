"""Read images in other processes while the network computes. A broken file is a record, not an exception."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from maskclip.errors import InputError
from maskclip.images.reading import page_count, read_image
from maskclip.segmenting.inputs import InputImage


class Loaded(NamedTuple):
    """An image with its `pixels` (H, W, 3) uint8 RGB, or None and the `problem` that prevents reading it.

    `pages` is the number of pages of its file, 1 if they are not counted.

    The pixels are not a tensor: tensors travel between processes in shared memory, and if that is full, as in a container
    with 64 MB, the loader waits forever. Arrays go through a pipe.
    """

    image: InputImage
    pixels: np.ndarray | None
    problem: str = ""
    pages: int = 1


class InputImages(Dataset[Loaded]):
    """The images of a list, read when they are indexed; `exif`: as displayed, not as stored."""

    def __init__(self, images: Sequence[InputImage], count_pages: bool, exif: bool = True) -> None:
        self.images, self.count_pages, self.exif = images, count_pages, exif

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Loaded:
        image = self.images[index]
        path = Path(image.path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large image; twice that size is an error
                pixels = read_image(path, image.page, self.exif)
                pages = page_count(path) if self.count_pages else 1
        except InputError as error:
            return Loaded(image, None, str(error))
        return Loaded(image, pixels, pages=pages)


def make_loader(
    images: Sequence[InputImage], batch_size: int, num_workers: int, count_pages: bool, exif: bool = True
) -> DataLoader[Loaded]:
    """A loader of lists of `batch_size` images, in order."""
    return DataLoader(
        InputImages(images, count_pages, exif),
        batch_size=batch_size,
        collate_fn=list,
        num_workers=num_workers,
        prefetch_factor=2 if num_workers else None,
    )
