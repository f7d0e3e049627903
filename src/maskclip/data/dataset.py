"""One dataset class for everything that is images and index masks: where the files lie is data, not code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Literal, NamedTuple, TypedDict

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import NotRequired

from maskclip.data.corruptions import corrupt
from maskclip.data.images import broken_images, read_image, read_mask
from maskclip.data.walk import LeftOut, find_files, find_images
from maskclip.errors import InputError
from maskclip.functional import IGNORE_INDEX, UNLABELLED, ignore_index

Transform = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class Sample(TypedDict):
    """`image` (3, H, W) uint8 RGB; `mask` (H, W) int64 class indices, 255 ignored, -1 unlabelled; `name` of the image.

    `truth` (H, W) int64, if asked for, is what the unlabelled pixels are: to judge pseudo labels by, not to learn from.
    """

    image: Tensor
    mask: Tensor
    name: str
    truth: NotRequired[Tensor]


class Draw(NamedTuple):
    """One draw of a training run: which image, and the number of the draw, which seeds its augmentation."""

    image: int
    number: int


def check_pattern(key: str, pattern: str) -> None:
    """Raise `InputError` unless the pattern `data.key` has one % in the place of the name."""
    if "{}" in pattern:
        raise InputError(f"data.{key}={pattern}: write % for the name, data.{key}={pattern.replace('{}', '%')}")
    if pattern.count("%") != 1:
        raise InputError(f"data.{key}={pattern} needs one % in the place of the name, such as data.{key}=photos/%.jpg")


class SegmentationDataset(Dataset[Sample]):
    """Images and index masks under `root`, named by patterns with one % each, in the place of the name.

    An images pattern that ends in % matches files with any image suffix, and names keep the suffix: the mask of cat.jpg
    is cat.jpg.png if that file exists, else cat.png (with masks="%.png"). `split` is a text file of names, one a line; None takes every
    image that fits the pattern. `masks` None: no labels. `reduce_zero_label`: 0 in the files is ignored and the classes start
    at 1, as in ADE20K. `hide` says which labels the learner may not see: class indices, "all" (not even what is
    ignored), or "valid" (all but what is ignored); `truth` hands them out beside the mask. `skip_broken` reads all
    pictures beforehand and leaves out those that cannot be read (`broken` lists why). `corruption` and `severity`: see
    `corruptions.py`. `left_out` tells what a search for images, see `walk.py`, passed over.
    In files 255 is ignored; where there are more than 254 classes, files are 16-bit and 65535 is (`ignore_index`).
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
        truth: bool = False,
        transform: Transform | None = None,
        skip_broken: bool = False,
        corruption: str | None = None,
        severity: int = 1,
        seed: int = 0,
        source: str = "",
    ) -> None:
        self.root = Path(root)
        self.images, self.masks = images, masks
        self.num_classes, self.reduce_zero_label = num_classes, reduce_zero_label
        self.ignore_index = ignore_index(num_classes)
        self.corruption, self.severity, self.seed = corruption, severity, seed
        if corruption is not None or severity not in range(1, 6):
            corrupt(np.zeros((8, 8, 3), np.uint8), corruption or "jpeg_compression", severity, "")  # an unknown kind is said now
        if isinstance(hide, str) and hide not in ("all", "valid"):
            raise InputError(f"hide={hide!r}: give class indices, 'all' or 'valid'")
        for key, pattern in (("images", images), ("masks", masks)):
            if pattern is not None:
                check_pattern(key, pattern)
        self.hide = hide
        self.truth = truth and masks is not None and len(hide) > 0
        self.transform = transform
        if not self.root.is_dir():
            raise InputError(f"no data in {self.root} (data.root). {source}".strip())
        self.left_out = LeftOut()
        self.names = self._names(split, source)
        self.broken = broken_images([self.image_path(name) for name in self.names]) if skip_broken else {}
        self.names = [name for name in self.names if self.image_path(name) not in self.broken]
        if not self.names:
            raise InputError(f"no image in {self.root} can be read, such as {next(iter(self.broken.values()))}")

    def image_path(self, name: str) -> Path:
        """Where an image lies."""
        return self.root / self.images.replace("%", name)

    def mask_path(self, name: str) -> Path:
        """Where the mask of an image lies. Raises `InputError` if the data set has none."""
        if self.masks is None:
            raise InputError("this data set has no masks (data.masks)")
        path = self.root / self.masks.replace("%", name)
        if self.images.endswith("%") and not path.is_file():
            return self.root / self.masks.replace("%", str(Path(name).with_suffix("")))
        return path

    def _names(self, split: str | None, source: str) -> list[str]:
        if split is not None:
            path = self.root / split
            if not path.is_file():
                raise InputError(f"no split file {path}. {source}".strip())
            try:
                names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            except UnicodeDecodeError as cause:
                raise InputError(f"the split file {path} is not UTF-8: {cause}") from cause
            if missing := [name for name in names if not self.image_path(name).is_file()]:
                raise InputError(
                    f"no such image: {self.image_path(missing[0])}, which {path} names"
                    + (f", and {len(missing) - 1} more" if missing[1:] else "")
                    + ": mend the split file, data.images or data.root"
                )
        else:
            names = self._found()
        if not names:
            where = self.root / split if split is not None else self.root / self.images
            others = "".join(f"; {sentence}" for sentence in self.left_out.sentences())
            raise InputError(f"no images: {where} {'is empty' if split is not None else 'fits no file (data.images)'}{others}")
        return names

    def _found(self) -> list[str]:
        """The names of all files that fit the pattern of images and not that of masks."""
        before, after = self.images.split("%")
        below = before.rpartition("/")[0]
        walk = find_files if after else find_images  # a pattern with a suffix chooses the files itself
        found = [PurePath(below, path).as_posix() for path in walk(self.root / below, self.left_out, "data.root")]
        names = [path[len(before) : len(path) - len(after)] for path in found if path.startswith(before) and path.endswith(after)]
        start, end = (self.masks or "\0%").split("%")
        names = [name for name in names if not (start and self.images.replace("%", name).startswith(start) and name.endswith(end))]
        if self.masks is None:
            return names
        mask_of = {name: self.mask_path(name) for name in names}
        masks = {path for name, path in mask_of.items() if path != self.image_path(name)}
        names = [name for name in names if self.image_path(name) not in masks]  # masks may lie beside the images
        owner: dict[Path, str] = {}
        for name in names:
            if owner.setdefault(mask_of[name], name) != name:
                raise InputError(f"{owner[mask_of[name]]} and {name} would have the same mask, {mask_of[name]}: rename one of them")
        return names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, draw: int | Draw) -> Sample:
        index, number = (draw.image, draw.number) if isinstance(draw, Draw) else (draw, draw)
        name = self.names[index]
        try:
            image = read_image(self.image_path(name))
        except InputError as error:
            raise InputError(f"{error} (data.skip_broken=true leaves such out)") from error
        if self.corruption is not None:
            image = corrupt(image, self.corruption, self.severity, name, self.seed)
        mask = self._mask(name, image.shape[:2], self.hide)
        masks = np.dstack([mask, self._mask(name, image.shape[:2], ())]) if self.truth else mask
        if self.transform is not None:
            image, masks = self.transform(image, masks, number)
        labels, *truth = torch.from_numpy(np.atleast_3d(masks).transpose(2, 0, 1).astype(np.int64))
        sample: Sample = {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "mask": labels.masked_fill(labels == self.hidden, UNLABELLED),
            "name": name,
        }
        if truth:
            sample["truth"] = truth[0].masked_fill(labels != self.hidden, self.ignore_index)
        return sample

    @property
    def hidden(self) -> int:
        """What stands for UNLABELLED while a mask is still unsigned, on its way through the transforms."""
        return self.ignore_index - 1

    def _mask(self, name: str, shape: tuple[int, ...], hide: Sequence[int] | str) -> np.ndarray:
        """Labels (H, W) uint8 (uint16 where there are more than 254 classes), `hidden` where the learner may not look."""
        if self.masks is None or hide == "all":
            return np.full(shape, self.hidden if hide else self.ignore_index, dtype=self.dtype)
        labels = self.labels(name, hide)
        if labels.shape != shape:
            path = self.mask_path(name)
            raise InputError(
                f"{path} is {labels.shape[1]} x {labels.shape[0]} pixels, its image {name} {shape[1]} x {shape[0]} (data.masks)"
            )
        return labels

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Of a mask on its way through the transforms."""
        return np.uint8 if self.ignore_index == IGNORE_INDEX else np.uint16

    def labels(self, name: str, hide: Sequence[int] | str = ()) -> np.ndarray:
        """The class indices (H, W) of an image's mask, uint8 or uint16, checked; `hidden` for those that are to be hidden.

        Raises `InputError` for labels that are no class.
        """
        path = self.mask_path(name)
        stored = read_mask(path)
        present = np.flatnonzero(cv2.calcHist([stored], [0], None, [256], [0, 256])) if stored.dtype == np.uint8 else np.unique(stored)
        first = int(self.reduce_zero_label)
        valid = (present >= first) & (present < first + self.num_classes)
        ignored = (present == self.ignore_index) | ((present == 0) & self.reduce_zero_label)
        if strangers := (present[~valid & ~ignored] - first).tolist():
            raise InputError(
                f"{path} has labels {strangers}, but there are {self.num_classes} classes "
                f"(0..{self.num_classes - 1}, {self.ignore_index} ignored): see data.reduce_zero_label and classes"
            )
        table = np.full(self.ignore_index + 1, self.ignore_index, dtype=self.dtype)
        table[first : first + self.num_classes] = np.arange(self.num_classes)
        classes = range(self.num_classes) if isinstance(hide, str) else hide
        table[[first + index for index in classes if hide]] = self.hidden
        # OpenCV looks up ten times as fast as numpy, but only bytes
        return cv2.LUT(stored, table) if stored.dtype == np.uint8 and self.dtype is np.uint8 else table[stored]
