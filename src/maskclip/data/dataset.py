"""One dataset class for everything that is images and index masks: where the files lie is data, not code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from maskclip.data.images import read_image, read_mask
from maskclip.errors import InputError
from maskclip.functional import IGNORE_INDEX, UNLABELLED

HIDDEN = 254
"""What stands for UNLABELLED while a mask is still uint8, on its way through the transforms."""

MOST_CLASSES = 254

Transform = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class Sample(TypedDict):
    """`image` (3, H, W) uint8 RGB; `mask` (H, W) int64 class indices, 255 ignored, -1 unlabelled; `name` of the image."""

    image: Tensor
    mask: Tensor
    name: str


class Draw(NamedTuple):
    """One draw of a training run: which image, and the number of the draw, which seeds its augmentation."""

    image: int
    number: int


class SegmentationDataset(Dataset[Sample]):
    """Images and index masks under `root`, named by patterns with one {} each.

    `split` is a text file of names, one a line; None takes every image that fits the pattern. `masks` None: no labels.
    `reduce_zero_label`: 0 in the files is ignored and the classes start at 1, as in ADE20K. `hide` says which labels the
    learner may not see: class indices, "all" (not even what is ignored), or "valid" (all but what is ignored).
    Raises `InputError` for a missing root or split, an empty folder, a file that is not there or a label out of range.
    """

    def __init__(
        self,
        root: str | Path,
        images: str,
        num_classes: int,
        masks: str | None = None,
        split: str | None = None,
        reduce_zero_label: bool = False,
        hide: Sequence[int] | Literal["all", "valid"] = (),
        transform: Transform | None = None,
        source: str = "",
    ) -> None:
        self.root = Path(root)
        self.images, self.masks = images, masks
        self.num_classes, self.reduce_zero_label = num_classes, reduce_zero_label
        if num_classes > MOST_CLASSES:
            raise InputError(
                f"{num_classes} classes: data sets here have 8-bit masks, which hold {MOST_CLASSES} besides what is ignored and what is "
                "unlabelled. src/segment.py labels with any number of classes"
            )
        if isinstance(hide, str) and hide not in ("all", "valid"):
            raise InputError(f"hide={hide!r}: give class indices, 'all' or 'valid'")
        for key, pattern in (("images", images), ("masks", masks)):
            if pattern is not None and pattern.count("{}") != 1:
                raise InputError(f"data.{key}={pattern!r} must hold {{}} once, in the place of the name, as in photos/{{}}.jpg")
        self.hide = hide
        self.transform = transform
        if not self.root.is_dir():
            raise InputError(f"no data in {self.root} (data.root). {source}".strip())
        self.names = self._names(split, source)

    def _names(self, split: str | None, source: str) -> list[str]:
        if split is not None:
            path = self.root / split
            if not path.is_file():
                raise InputError(f"no split file {path}. {source}".strip())
            names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        else:
            before, after = self.images.split("{}")
            folder = self.root / before.rpartition("/")[0]
            found = (p.relative_to(self.root).as_posix() for p in folder.rglob("*") if p.is_file())
            fits = (path for path in found if path.startswith(before) and path.endswith(after))
            names = sorted(name[len(before) : len(name) - len(after)] for name in fits)
        if not names:
            where = self.root / split if split is not None else self.root / self.images
            raise InputError(f"no images: {where} {'is empty' if split is not None else 'fits no file (data.images)'}")
        return names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, draw: int | Draw) -> Sample:
        index, number = (draw.image, draw.number) if isinstance(draw, Draw) else (draw, draw)
        name = self.names[index]
        image = read_image(self.root / self.images.format(name))
        mask = self._mask(name, image.shape[:2])
        if self.transform is not None:
            image, mask = self.transform(image, mask, number)
        labels = torch.from_numpy(mask.astype(np.int64))
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "mask": labels.masked_fill_(labels == HIDDEN, UNLABELLED),
            "name": name,
        }

    def _mask(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Labels (H, W) uint8 with HIDDEN where the learner may not look."""
        if self.masks is None or self.hide == "all":
            return np.full(shape, HIDDEN if self.hide else IGNORE_INDEX, dtype=np.uint8)
        path = self.root / self.masks.format(name)
        labels = read_mask(path)
        if labels.shape != shape:
            raise InputError(f"{path} is {labels.shape[1]} x {labels.shape[0]} pixels, its image {name} {shape[1]} x {shape[0]}")
        if self.reduce_zero_label:
            labels = np.where((labels == 0) | (labels == IGNORE_INDEX), IGNORE_INDEX, labels - 1)
        valid = labels != IGNORE_INDEX
        strangers = np.unique(labels[valid & ((labels < 0) | (labels >= self.num_classes))])
        if strangers.size:
            raise InputError(
                f"{path} has labels {strangers.tolist()}, but there are {self.num_classes} classes (0..{self.num_classes - 1}, 255 ignored)"
            )
        hidden = valid if isinstance(self.hide, str) else np.isin(labels, list(self.hide))
        return np.where(hidden, HIDDEN, labels).astype(np.uint8)
