"""Reading pictures in other processes while the network computes; a broken file is a record, not an exception."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from maskclip.data.images import read_image
from maskclip.data.samplers import EveryNth
from maskclip.errors import InputError
from maskclip.segmenting.inputs import Picture


class Loaded(NamedTuple):
    """A picture with its `pixels` (H, W, 3) uint8 RGB, or None and the `problem` why it cannot be read.

    Not a tensor: those travel between processes in shared memory, and where that is full, as in a container's 64 MB, the
    loader waits for ever. Arrays go through a pipe.
    """

    picture: Picture
    pixels: np.ndarray | None
    problem: str = ""


class Pictures(Dataset[Loaded]):
    """Pictures by their number in a list."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> Loaded:
        picture = self.pictures[number]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large picture; twice that size is an error
                pixels = read_image(Path(picture.path))
        except InputError as error:
            return Loaded(picture, None, str(error))
        return Loaded(picture, pixels)


def make_loader(pictures: Sequence[Picture], rank: int, world: int, batch: int, num_workers: int) -> DataLoader[Loaded]:
    """Lists of `batch` pictures; process `rank` of `world` has every `world`-th, none twice, none added to make it even."""
    data = Pictures(pictures)
    return DataLoader(
        data,
        batch_size=batch,
        sampler=EveryNth(data, rank, world),
        collate_fn=list,
        num_workers=num_workers,
        prefetch_factor=2 if num_workers else None,
    )
