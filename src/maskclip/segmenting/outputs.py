"""What is written for a picture, and where."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from maskclip.errors import InputError, is_count
from maskclip.files import replacing, write_json
from maskclip.images.drawing import legend, overlay
from maskclip.images.writing import write_atomically, write_mask
from maskclip.inference.labels import SOFT, Features, Prediction
from maskclip.notices import warn_once
from maskclip.vocabulary import Vocabulary

FOLDERS = {
    "masks": (".png", "class indices, palette PNG (16-bit grey with more than 254 classes)"),
    "overlays": (".jpg", "the image with its classes in colour, scaled down to 65500 pixels where it is longer (a limit of JPEG)"),
    "confidence": (".png", "16-bit grey: value / 65535 is the probability of the best class"),
    "margin": (".png", "16-bit grey: value / 65535 is the probability of the best class less that of the second"),
    "entropy": (".png", "16-bit grey: value / 65535 is the entropy of the probabilities over log(number of classes), 0 sure, 1 unsure"),
    "top": (".npz", "top_classes (K, H, W) class indices, best first; top_probabilities (K, H, W) float16"),
    "features": (".npz", "features (D, h, w) float16 of unit length, of the picture scaled to input_size; they cover covered_size"),
}
"""The folders of outputs: the suffix of the files in each, and what they are."""

LONGEST_JPEG = 65500
"""Pixels of a side, as libjpeg has it."""
OF_ONE_IMAGE = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
"""Errors of a file name that this disk does not take, or that is taken by a folder; others are those of the disk."""


@dataclass(frozen=True)
class Outputs:
    """What is written into `folder` for every picture: `soft` are some of `SOFT`, `top` how many best classes.

    photos/a/cat.jpg, with the name a/cat.jpg, becomes `folder`/masks/a/cat.jpg.png, `folder`/overlays/a/cat.jpg.jpg and
    so on, with the folders and suffixes of `FOLDERS`. Raises `InputError` if there is nothing to write, or more than there is.
    """

    folder: Path
    vocabulary: Vocabulary
    masks: bool = True
    overlays: bool = True
    soft: Sequence[str] = ()
    top: int = 0
    features: bool = False

    def __post_init__(self) -> None:
        unknown = [self.soft] if isinstance(self.soft, str) else [name for name in self.soft if name not in SOFT]
        if unknown:
            raise InputError(f"soft={unknown[0]}: give a list of some of {', '.join(SOFT)}, as in 'soft=[{SOFT[0]}]'")
        for name in ("masks", "overlays", "features"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}={getattr(self, name)}: give true or false")
        if not is_count(self.top, least=0) or self.top > len(self.vocabulary):
            raise InputError(f"top={self.top}: give a number from 0 to {len(self.vocabulary)}, as many as there are classes")
        if not self.kinds:
            raise InputError("nothing to write: masks=false and overlays=false leave only soft, top and features, and none is asked for")

    @property
    def kinds(self) -> list[str]:
        """The folders in use."""
        chosen = {"masks": self.masks, "overlays": self.overlays, "top": self.top > 0, "features": self.features}
        return [kind for kind in FOLDERS if chosen.get(kind, kind in self.soft)]

    def path(self, kind: str, name: str) -> Path:
        """Where the output of a kind goes for the picture of this name."""
        return self.folder / kind / (name + FOLDERS[kind][0])

    def write_legend(self) -> None:
        """Write legend.json and legend.png: the classes, their colours, and what lies in which folder."""
        names, palette = list(self.vocabulary.names), self.vocabulary.colours
        classes = [{"index": i, "name": n, "colour": list(c)} for i, (n, c) in enumerate(zip(names, palette, strict=True))]
        files = {
            f"{kind}/*{suffix}": meaning
            for kind, (suffix, meaning) in FOLDERS.items()
            if (self.folder / kind).is_dir() or kind in self.kinds
        }
        write_json(self.folder / "legend.json", {"classes": classes, "files": files})
        write_atomically(legend(names, palette, width=640), self.folder / "legend.png")

    def write(self, name: str, pixels: np.ndarray, prediction: Prediction) -> str:
        """Write all outputs of an image (H, W, 3) uint8; returns why some could not be written, "" if all were.

        Raises `InputError` if the cause is the disk or the network and not this image.
        """
        labels = prediction.labels.numpy()
        writers: dict[str, Callable[[Path], None]] = {
            "masks": lambda path: write_mask(path, labels, self.vocabulary.colours),
            "overlays": lambda path: self._write_overlay(path, pixels, labels),
            "top": lambda path: self._write_top(path, prediction),
            "features": lambda path: self._write_features(path, prediction.features),
            "confidence": lambda path: write_grey(path, prediction.confidence),
            "margin": lambda path: write_grey(path, prediction.margin),
            "entropy": lambda path: write_grey(path, prediction.entropy, whole=math.log(max(2, len(self.vocabulary)))),
        }
        return "; ".join(filter(None, (_problem(self.path(kind, name), writers[kind]) for kind in self.kinds)))

    def _write_overlay(self, path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
        picture = Image.fromarray(overlay(pixels, labels, self.vocabulary.colours))
        if max(picture.size) > LONGEST_JPEG:
            warn_once("overlay", f"{path} is scaled down to {LONGEST_JPEG} pixels, the limit of JPEG; masks keep the size of the image")
            picture.thumbnail((LONGEST_JPEG, LONGEST_JPEG))
        write_atomically(picture, path, quality=92)

    def _write_top(self, path: Path, prediction: Prediction) -> None:
        assert prediction.top_classes is not None and prediction.top_probabilities is not None
        kind = np.uint8 if len(self.vocabulary) <= 256 else np.uint16
        classes, probabilities = prediction.top_classes.numpy().astype(kind), prediction.top_probabilities.numpy().astype(np.float16)
        write_arrays(path, np.savez_compressed, top_classes=classes, top_probabilities=probabilities)

    def _write_features(self, path: Path, features: Features | None) -> None:
        assert features is not None
        sizes = {"covered_size": np.array(features.covered_size), "input_size": np.array(features.input_size)}
        write_arrays(path, np.savez, features=features.features.numpy().astype(np.float16), **sizes)


def _problem(path: Path, write: Callable[[Path], None]) -> str:
    """Write a file; returns why that is impossible for this image, "" if it worked. Raises `InputError` if it is for any image."""
    try:
        write(path)
    except InputError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in OF_ONE_IMAGE:
            raise
        return f"{error}: rename the image, or name its outputs in a list (input=list.txt with path, tab, name in a line)"
    except Exception as error:  # encoders raise anything, and memory can be short for one large image
        return f"cannot write {path}: {type(error).__name__}: {error}"
    return ""


def write_grey(path: Path, values: Tensor | None, whole: float = 1.0) -> None:
    """Write values (H, W) in 0..`whole` as a 16-bit grey PNG, 65535 being `whole`. Atomic."""
    assert values is not None
    grey = (values.float() / whole).clamp(0, 1).mul(65535).round().numpy().astype(np.uint16)
    write_atomically(Image.fromarray(grey), path)


def write_arrays(path: Path, save: Callable[..., None], **arrays: Any) -> None:
    """Write arrays to an npz file with `save`, numpy's savez or savez_compressed. Atomic."""
    with replacing(path) as partial, partial.open("wb") as stream:
        save(stream, **arrays)
