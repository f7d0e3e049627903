"""Reading pictures in other processes while the network computes; a broken file is a record, not an exception."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from maskclip.data.samplers import EveryNth
from maskclip.errors import InputError
from maskclip.images.reading import page_count, read_image
from maskclip.segmenting.inputs import Picture


class Loaded(NamedTuple):
    """An image with its `pixels` (H, W, 3) uint8 RGB, or None and the `problem` why it cannot be read.

    `pages` is how many its file has, 1 where they are not counted.

    Not a tensor: those travel between processes in shared memory, and where that is full, as in a container's 64 MB, the
    loader waits for ever. Arrays go through a pipe.
    """

    picture: Picture
    pixels: np.ndarray | None
    problem: str = ""
    pages: int = 1


class Pictures(Dataset[Loaded]):
    """Images by their number in a list."""

    def __init__(self, pictures: Sequence[Picture], count_pages: bool) -> None:
        self.pictures, self.count_pages = pictures, count_pages

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> Loaded:
        picture = self.pictures[number]
        path = Path(picture.path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large picture; twice that size is an error
                pixels = read_image(path, picture.page)
                pages = page_count(path) if self.count_pages else 1
        except InputError as error:
            return Loaded(picture, None, str(error))
        return Loaded(picture, pixels, pages=pages)


def make_loader(pictures: Sequence[Picture], rank: int, world: int, batch: int, num_workers: int, count_pages: bool) -> DataLoader[Loaded]:
    """Lists of `batch` images; process `rank` of `world` has every `world`-th, none twice, none added to make it even."""
    data = Pictures(pictures, count_pages)
    return DataLoader(
        data,
        batch_size=batch,
        sampler=EveryNth(data, rank, world),
        collate_fn=list,
        num_workers=num_workers,
        prefetch_factor=2 if num_workers else None,
    )
