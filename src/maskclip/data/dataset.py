"""One dataset class for everything that is images and index masks: where the files lie is data, not code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, TypedDict

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import NotRequired

from maskclip.data.corruptions import corrupt
from maskclip.data.mask_values import MaskValues
from maskclip.data.splits import Files, read_split
from maskclip.errors import InputError
from maskclip.functional import UNLABELLED
from maskclip.images.finding import LeftOut, find_files, find_images
from maskclip.images.reading import read_mask, read_turned
from maskclip.notices import warn_once

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


def override(key: str, value: str) -> str:
    """The override `key=value` of a text, quoted for Hydra and for a shell."""
    if not re.fullmatch(r"[\w./%+@:-]+", value, re.ASCII):
        value = '"' + re.sub(r'(\\*)"', r'\1\1\\"', value) + '"'
    return shlex.quote(f"{key}={value}")


def check_pattern(key: str, pattern: str) -> None:
    """Raise `InputError` unless the pattern `data.key` has one % in the place of the name."""
    if "{}" in pattern:
        raise InputError(f"data.{key}={pattern}: write % for the name, {override(f'data.{key}', pattern.replace('{}', '%'))}")
    if pattern.count("%") != 1:
        raise InputError(f"data.{key}={pattern} needs one % in the place of the name, such as data.{key}=photos/%.jpg")


class SegmentationDataset(Dataset[Sample]):
    """Images and index masks under `root`, named by patterns with one % each, in the place of the name.

    An images pattern that ends in % matches files with any image suffix, and names keep the suffix: the mask of cat.jpg
    is cat.jpg.png if that file exists, else cat.png (with masks="%.png"). `split` is a text file, see `read_split`; None
    takes every image that fits the pattern. `masks` None: no labels. `class_names` are for messages. `reduce_zero_label`
    and `ignore`: what values in mask files mean, see `MaskValues`. `hide`: the labels that become UNLABELLED, as class
    indices, "all" (ignored pixels too) or "valid" (all but ignored pixels); `truth` adds the hidden labels to each sample.
    `exif` turns images and masks, each by its own EXIF orientation, so that masks lie on images as displayed; without it,
    masks lie on the stored pixels. `corruption` and `severity`: see `corruptions.py`.
    `left_out` lists what the search for images (`walk.py`) passed over.
    Raises `InputError` for a missing root or split, an empty folder, a file that is not there or a value that is no class.
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
        exif: bool = True,
        corruption: str | None = None,
        severity: int = 1,
        seed: int = 0,
        source: str = "",
        ignore: Sequence[int] = (),
        split_prefix: str = "",
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.root = Path(root)
        self.images, self.masks = PurePath(images).as_posix(), None if masks is None else PurePath(masks).as_posix()  # "./photos//%.jpg"
        self.num_classes, self.exif = num_classes, exif
        names = class_names or [f"class {index}" for index in range(num_classes)]
        self.values = MaskValues(names, reduce_zero_label, ignore)
        self.ignore_index, self.dtype = self.values.ignore_index, self.values.dtype
        for key, pattern in (("images", images), ("masks", masks)):
            if pattern is not None:
                check_pattern(key, pattern)
        self._set_options(hide, truth, transform, corruption, severity, seed)
        if not self.root.is_dir():
            raise InputError(f"no data in {self.root} (data.root). {source}".strip())
        self._mask_names: dict[str, str] = {}
        self.broken: dict[Path, str] = {}
        self.left_out = LeftOut()
        self.names = self._listed(self.root / split, split_prefix, source) if split is not None else self._found()
        if not self.names:
            where = f"{self.root / split} is empty" if split is not None else f"{self.root / images} fits no file (data.images)"
            raise InputError("; ".join([f"no images: {where}", *self.left_out.sentences()]))
        self._check_shared_masks()

    def _set_options(
        self,
        hide: Sequence[int] | Literal["all", "valid"] = (),
        truth: bool = False,
        transform: Transform | None = None,
        corruption: str | None = None,
        severity: int = 1,
        seed: int = 0,
    ) -> None:
        if corruption is not None or severity not in range(1, 6):
            corrupt(np.zeros((8, 8, 3), np.uint8), corruption or "jpeg_compression", severity, "")  # raises for an unknown kind
        if isinstance(hide, str) and hide not in ("all", "valid"):
            raise InputError(f"hide={hide!r}: give class indices, 'all' or 'valid'")
        self.hide, self.transform = hide, transform
        self.truth = truth and self.masks is not None and len(hide) > 0
        self.corruption, self.severity, self.seed = corruption, severity, seed

    def with_options(self, **options: Any) -> SegmentationDataset:
        """The same files, not listed again, with other `hide`, `truth`, `transform`, `corruption`, `severity` and `seed`."""
        data = copy(self)
        data._set_options(**options)
        return data

    def leave_out(self, broken: Mapping[Path, str]) -> None:
        """Leave out images that cannot be read, given with the reasons. Raises `InputError` if none is left."""
        self.broken = {path: broken[path] for path in map(self.image_path, self.names) if path in broken}
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
        path = self.root / self.masks.replace("%", self._mask_names.get(name, name))
        if name not in self._mask_names and self.images.endswith("%") and not path.is_file():
            return self.root / self.masks.replace("%", str(Path(name).with_suffix("")))
        return path

    def _listed(self, split: Path, prefix: str, source: str) -> list[str]:
        """The names in a split file, in its order; masks that it gives are kept. Raises `InputError` for files that are not there."""
        if not split.is_file():
            raise InputError(f"no split file {split}. {source}".strip())
        files = Files()
        pairs = read_split(split, prefix, lambda name: files.has(self.image_path(name)))
        missing = [name for name, _ in pairs if not files.has(self.image_path(name))]
        if missing:
            more = f", and {len(missing) - 1} more" if missing[1:] else ""
            raise InputError(
                f"no such image: {self.image_path(missing[0])}, which {split} names{more}: correct the split file, data.images, "
                f"data.root or data.split_prefix{self._prefix_advice(missing[0])}"
            )
        self._check_listed_masks(split, dict.fromkeys(mask for _, mask in pairs if mask is not None), files)
        for name, mask in pairs:
            if mask is not None and self._mask_names.setdefault(name, mask) != mask:
                raise InputError(f"{split} gives two masks for the image {name}: {self._mask_names[name]} and {mask}")
        return [name for name, _ in pairs]

    def _check_listed_masks(self, split: Path, masks: Collection[str], files: Files) -> None:
        """Raise `InputError` if masks that a split file gives are not there."""
        if self.masks is None:
            return
        paths = [self.root / self.masks.replace("%", mask) for mask in masks]
        missing = [path for path in paths if not files.has(path)]
        if missing and {"-1"} <= set(masks) <= {"-1", "0", "1"}:
            raise InputError(
                f"{split} has numbers in place of masks, as the lists of one class in VOC's ImageSets/Main have: give a list of "
                "image names, such as ImageSets/Segmentation/val.txt"
            )
        if missing:
            more = f", and {len(missing) - 1} more" if missing[1:] else ""
            raise InputError(f"no such mask: {missing[0]}, which {split} names{more}: correct the split file, data.masks or data.root")

    def _prefix_advice(self, name: str) -> str:
        """The `split_prefix` that makes a name of a split file fit an image, as advice; "" if there is none."""
        parts = name.split("/")
        for start in range(1, len(parts)):
            if self.image_path("/".join(parts[start:])).is_file():
                return (
                    f"; {override('data.split_prefix', '/'.join(parts[:start]) + '/')} makes it {self.image_path('/'.join(parts[start:]))}"
                )
        return ""

    def _check_shared_masks(self) -> None:
        """Raise `InputError` if two images with different suffixes have one mask file."""
        if self.masks is None or not self.images.endswith("%"):
            return
        owner: dict[Path, str] = {}
        for name in (name for name in self.names if name not in self._mask_names):
            mask = self.mask_path(name)
            if owner.setdefault(mask, name) != name and mask.is_file():
                raise InputError(
                    f"{owner[mask]} and {name} would have the same mask, {mask}: rename one of them, or name masks after the "
                    f"whole file name, {self.masks.replace('%', name)}"
                )

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
        return [name for name in names if self.image_path(name) not in masks]  # masks may lie beside the images

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, draw: int | Draw) -> Sample:
        index, number = (draw.image, draw.number) if isinstance(draw, Draw) else (draw, draw)
        name = self.names[index]
        try:
            image, turn = read_turned(self.image_path(name), exif=self.exif)
        except InputError as error:
            raise InputError(f"{error} (data.skip_broken=true leaves such out)") from error
        if turn > 1 and self.exif and self.masks is not None:
            self._warn_of_turns(name, turn)
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
            raise InputError(self.size_problem(name, labels.shape, shape))
        return labels

    def _warn_of_turns(self, name: str, turn: int) -> None:
        warn_once(
            "turned",
            f"{self.image_path(name)} has EXIF orientation {turn}, and others may have one: masks must lie on the images as displayed. "
            "If they lie on the stored pixels, set data.exif=false",
        )

    def size_problem(self, name: str, mask: tuple[int, ...], image: tuple[int, ...]) -> str:
        """Sentence on a mask (H, W) whose size is not that of its image (H, W), which names the EXIF orientation if it may be the cause."""
        problem = f"{self.mask_path(name)} is {mask[1]} x {mask[0]} pixels, its image {name} {image[1]} x {image[0]}"
        turn = read_turned(self.image_path(name))[1]
        if turn > 1 and mask == image[::-1]:
            stored, displayed = ("as stored", "as displayed") if not self.exif else ("as displayed", "as stored")
            return (
                f"{problem} {stored}: the image has EXIF orientation {turn}, and the mask fits it {displayed}. "
                f"Set data.exif={str(not self.exif).lower()} if this holds for the whole data set"
            )
        return f"{problem} (data.masks)"

    def labels(self, name: str, hide: Sequence[int] | str = ()) -> np.ndarray:
        """The class indices (H, W) of an image's mask, uint8 or uint16; `hidden` for the classes in `hide`.

        Raises `InputError` for values that are no class.
        """
        path = self.mask_path(name)
        stored = read_mask(path, self.exif)
        present = np.flatnonzero(cv2.calcHist([stored], [0], None, [256], [0, 256])) if stored.dtype == np.uint8 else np.unique(stored)
        if unknown := self.values.unknown(present.tolist()):
            raise InputError(self.explain(path, unknown))
        classes = range(self.num_classes) if isinstance(hide, str) else hide
        return self.values.to_classes(stored, classes, self.hidden)

    def explain(self, mask: Path, unknown: Sequence[int]) -> str:
        """What is wrong with a mask that has `unknown` values, and what to do, judged by up to 100 masks of the data set."""
        first, last = self.values.first, self.values.first + self.num_classes - 1
        present = set(unknown)
        for name in self.names[:: max(1, len(self.names) // 100)]:
            with suppress(InputError):
                present |= set(np.unique(read_mask(self.mask_path(name), self.exif)).tolist())
        every = self.values.unknown(sorted(present))
        return (
            f"{mask} has labels {list(unknown)}, but there are {self.num_classes} classes (values "
            f"{first}..{last}; {self.values.ignored_text} ignored). {self.values.advice(every, present)}"
        )
