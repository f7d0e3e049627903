"""One data set class for all images with index masks: where the files are is configuration, not code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from maskclip.data.label_folder import LabelFolder
from maskclip.data.listing import Listing
from maskclip.data.mask_values import MaskValues
from maskclip.errors import InputError
from maskclip.functional import UNLABELLED
from maskclip.images.reading import read_mask, read_turned
from maskclip.notices import warn_once

Transform = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""From an image (H, W, 3), its labels (H, W) or (H, W, K) and the number of the draw to an augmented image and labels."""


class Sample(TypedDict):
    """An `image` (3, H, W) uint8 RGB, its `mask` (H, W) int64 of class indices, and its `name`.

    In the mask, 255 is ignored (65535 with more than 254 classes) and -1 is unlabelled. If requested, `truth` (H, W) int64 has
    the labels of the unlabelled pixels and ignores all others: it measures pseudo labels and is not for training. `pseudo`
    (H, W) int64 has stored pseudo labels. `corrected` (a boolean scalar) is whether the mask is that of a corrected image.
    """

    image: Tensor
    mask: Tensor
    name: str
    truth: NotRequired[Tensor]
    pseudo: NotRequired[Tensor]
    corrected: NotRequired[Tensor]


class Draw(NamedTuple):
    """One draw of a training run: the index of the image, and the number of the draw, which seeds its augmentation."""

    image: int
    number: int


class SegmentationDataset(Listing, Dataset[Sample]):
    """Images and index masks under `root`. For `root`, `images`, `masks`, `split`, `split_prefix` and `source` see `Listing`.

    Labels: `class_names` are for messages. `reduce_zero_label` and `ignore` define the values in mask files, see
    `MaskValues`. `hide`: the labels that become `UNLABELLED`, as class indices, "all" (ignored pixels too) or "valid" (all
    except ignored pixels). `truth` adds the hidden labels to each sample. `pseudo`: a folder of pseudo labels, one for each
    image, which are added to each sample. `corrected`: a folder of masks that replace those of `masks` and hide nothing; it
    need not have a mask for every image.

    Images: `exif` applies the EXIF orientation of each image and mask, for masks that match the images as displayed. Without
    it, masks match the stored pixels. `corruption`, `severity`, `seed`: see `corrupt`. `transform`: augmentation.

    Raises `InputError` for missing files, and when an item is read, for files that cannot be decoded and values without a class.
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
        pseudo: LabelFolder | None = None,
        corrected: LabelFolder | None = None,
    ) -> None:
        self.num_classes, self.exif = num_classes, exif
        self.values = MaskValues(class_names or [f"class {index}" for index in range(num_classes)], reduce_zero_label, ignore)
        self.ignore_index, self.dtype = self.values.ignore_index, self.values.dtype
        super().__init__(root, images, masks, split, split_prefix, source)
        self._set_options(hide, truth, transform, corruption, severity, seed, pseudo, corrected)

    def _set_options(
        self,
        hide: Sequence[int] | Literal["all", "valid"] = (),
        truth: bool = False,
        transform: Transform | None = None,
        corruption: str | None = None,
        severity: int = 1,
        seed: int = 0,
        pseudo: LabelFolder | None = None,
        corrected: LabelFolder | None = None,
    ) -> None:
        if corruption is not None or severity not in range(1, 6):
            corrupt(np.zeros((8, 8, 3), np.uint8), corruption or "jpeg_compression", severity, "")  # raises for invalid options
        if isinstance(hide, str) and hide not in ("all", "valid"):
            raise InputError(f"hide={hide!r}: give class indices, 'all' or 'valid'")
        self.hide, self.transform = hide, transform
        self.truth = truth and self.masks is not None and len(hide) > 0
        self.corruption, self.severity, self.seed = corruption, severity, seed
        self.pseudo, self.pseudo_maps = pseudo, self._label_maps(pseudo)
        if pseudo is not None and (absent := [self.relative_path(name) for name in self.names if name not in self.pseudo_maps]):
            raise pseudo.missing(absent, len(self.names))
        self.corrected, self.corrected_maps = corrected, self._label_maps(corrected)
        if corrected is not None and not self.corrected_maps:
            raise InputError(f"no training image has a mask in {corrected.folder} ({corrected.key}): name masks as {self.names[0]}.png")

    def _label_maps(self, folder: LabelFolder | None) -> dict[str, Path]:
        """The label map of every image that has one, by name."""
        if folder is None:
            return {}
        images = PurePath(self.images.partition("%")[0].rpartition("/")[0])
        found = ((name, folder.find(self.relative_path(name), images)) for name in self.names)
        return {name: path for name, path in found if path is not None}

    def with_options(self, **options: Any) -> SegmentationDataset:
        """A copy with the same files and other options: those of `__init__` from `hide` to `seed`, and from `pseudo` on."""
        data = copy(self)
        data._set_options(**options)
        return data

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, draw: int | Draw) -> Sample:
        index, number = (draw.image, draw.number) if isinstance(draw, Draw) else (draw, draw)
        name = self.names[index]
        try:
            image, orientation = read_turned(self.image_path(name), exif=self.exif)
        except InputError as error:
            raise InputError(f"{error} (data.skip_broken=true skips such images)") from error
        if orientation > 1 and self.exif and self.masks is not None:
            self._warn_of_orientation(name, orientation)
        if self.corruption is not None:
            image = corrupt(image, self.corruption, self.severity, name, self.seed)
        layers = self._layers(name, image.shape[:2])
        masks = np.dstack(list(layers.values())) if len(layers) > 1 else layers["mask"]
        if self.transform is not None:
            image, masks = self.transform(image, masks, number)
        maps = dict(zip(layers, torch.from_numpy(np.atleast_3d(masks).transpose(2, 0, 1).astype(np.int64)), strict=True))
        labels = maps["mask"]
        sample: Sample = {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "mask": labels.masked_fill(labels == self.hidden, UNLABELLED),
            "name": name,
        }
        if "truth" in maps:
            sample["truth"] = maps["truth"].masked_fill(labels != self.hidden, self.ignore_index)
        if "pseudo" in maps:
            sample["pseudo"] = maps["pseudo"]
        if self.corrected is not None:
            sample["corrected"] = torch.tensor(name in self.corrected_maps)
        return sample

    def _layers(self, name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The label maps (H, W) of an image that are augmented with it; the first one is the mask."""
        if self.corrected is not None and name in self.corrected_maps:
            layers = {"mask": self.corrected.read(self.corrected_maps[name], shape)}
        else:
            layers = {"mask": self._mask(name, shape, self.hide)}
        if self.truth:
            layers["truth"] = self._mask(name, shape, ())
        if self.pseudo is not None:
            layers["pseudo"] = self.pseudo.read(self.pseudo_maps[name], shape)
        return layers

    @property
    def hidden(self) -> int:
        """The value of unlabelled pixels in masks of unsigned integers, which transforms work on."""
        return self.ignore_index - 1

    def _mask(self, name: str, shape: tuple[int, ...], hide: Sequence[int] | str) -> np.ndarray:
        """Labels (H, W) uint8 (uint16 with more than 254 classes); pixels that `hide` selects have the value `hidden`."""
        if self.masks is None or hide == "all":
            return np.full(shape, self.hidden if hide else self.ignore_index, dtype=self.dtype)
        labels = self.labels(name, hide)
        if labels.shape != shape:
            raise InputError(self.size_problem(name, labels.shape, shape))
        return labels

    def _warn_of_orientation(self, name: str, orientation: int) -> None:
        warn_once(
            "turned",
            f"{self.image_path(name)} has EXIF orientation {orientation}, and other images may have one: masks must match the images as "
            "displayed. If they match the stored pixels, set data.exif=false",
        )

    def size_problem(self, name: str, mask: tuple[int, ...], image: tuple[int, ...]) -> str:
        """Message about a mask (H, W) that differs in size from its image (H, W); explains the EXIF orientation if it may be the cause."""
        problem = f"{self.mask_path(name)} is {mask[1]} x {mask[0]} pixels, its image {name} {image[1]} x {image[0]}"
        orientation = read_turned(self.image_path(name))[1]
        if orientation > 1 and mask == image[::-1]:
            used, other = ("as stored", "as displayed") if not self.exif else ("as displayed", "as stored")
            return (
                f"{problem} {used}: the image has EXIF orientation {orientation}, and the mask has its size {other}. "
                f"Set data.exif={str(not self.exif).lower()} if this is true for the whole data set"
            )
        return f"{problem} (data.masks)"

    def labels(self, name: str, hide: Sequence[int] | str = ()) -> np.ndarray:
        """Class indices (H, W) of an image, uint8 or uint16; `hidden` for the classes in `hide`.

        Raises `InputError` for values without a class.
        """
        path = self.mask_path(name)
        stored = read_mask(path, self.exif)
        present = np.flatnonzero(cv2.calcHist([stored], [0], None, [256], [0, 256])) if stored.dtype == np.uint8 else np.unique(stored)
        if unknown := self.values.unknown(present.tolist()):
            raise InputError(self.explain(path, unknown))
        classes = range(self.num_classes) if isinstance(hide, str) else hide
        return self.values.to_classes(stored, classes, self.hidden)

    def explain(self, mask: Path, unknown: Sequence[int]) -> str:
        """Message about a mask with `unknown` values, with advice based on up to 100 masks of the data set."""
        first, last = self.values.first, self.values.first + self.num_classes - 1
        present = set(unknown)
        for name in self.names[:: max(1, len(self.names) // 100)]:
            with suppress(InputError):
                present |= set(np.unique(read_mask(self.mask_path(name), self.exif)).tolist())
        all_unknown = self.values.unknown(sorted(present))
        return (
            f"{mask} has labels {list(unknown)}, but there are {self.num_classes} classes (values "
            f"{first}..{last}; {self.values.ignored_text} ignored). {self.values.advice(all_unknown, present)}"
        )
