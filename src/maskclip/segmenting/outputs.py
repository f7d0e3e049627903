"""The files that are written for an image."""

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

from maskclip.errors import BOOLEAN, InputError, check_settings, is_count, require
from maskclip.files import replacing, write_json
from maskclip.images.drawing import legend, overlay
from maskclip.images.writing import write_atomically, write_mask
from maskclip.inference.labels import SOFT, Features, Prediction
from maskclip.notices import warn_once
from maskclip.vocabulary import Vocabulary

FOLDERS = {
    "masks": (".png", "class indices, palette PNG (16-bit grey with more than 254 classes)"),
    "overlays": (".jpg", "the image with its classes in colour, scaled down to 65500 pixels if it is longer (the limit of JPEG)"),
    "confidence": (".png", "16-bit grey: value / 65535 is the probability of the best class"),
    "margin": (".png", "16-bit grey: value / 65535 is the probability of the best class less that of the second"),
    "entropy": (".png", "16-bit grey: value / 65535 is the entropy of the probabilities divided by log(number of classes); 0 is certain"),
    "top": (".npz", "top_classes (K, H, W) class indices, best first; top_probabilities (K, H, W) float16"),
    "features": (".npz", "features (D, h, w) float16 of unit length, of the image scaled to input_size; they cover covered_size"),
}
"""The folders of outputs, with the suffix and the description of their files."""

LONGEST_JPEG = 65500
"""The most pixels of a side that libjpeg writes."""
FILE_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
"""Errors of one file name, which the file system does not allow or which is a folder. Others are errors of the disk."""


@dataclass(frozen=True)
class Outputs:
    """The kinds of files written to `folder` for every image: `soft` is a subset of `SOFT`, `top` the number of best classes.

    photos/a/cat.jpg, with the name a/cat.jpg, becomes `folder`/masks/a/cat.jpg.png, `folder`/overlays/a/cat.jpg.jpg and
    so on, with the folders and suffixes of `FOLDERS`. Raises `InputError` for an unknown kind, more best classes than there
    are classes, or nothing to write.
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
        check_settings(vars(self), {"masks": BOOLEAN, "overlays": BOOLEAN, "features": BOOLEAN})
        classes = len(self.vocabulary)
        require(
            is_count(self.top, least=0) and self.top <= classes, "top", self.top, f"a number from 0 to {classes}, the number of classes"
        )
        if not self.kinds:
            raise InputError("nothing to write: set one of masks, overlays, soft, top and features")

    @property
    def kinds(self) -> list[str]:
        """The folders in use."""
        chosen = {"masks": self.masks, "overlays": self.overlays, "top": self.top > 0, "features": self.features}
        return [kind for kind in FOLDERS if chosen.get(kind, kind in self.soft)]

    def path(self, kind: str, name: str) -> Path:
        """The path of one kind of output of the image with this name."""
        return self.folder / kind / (name + FOLDERS[kind][0])

    def write_legend(self) -> None:
        """Write legend.json and legend.png: the classes, their colours, and the description of each folder."""
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
        """Write all outputs of an image (H, W, 3) uint8; returns the reason if some could not be written, else "".

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
            "entropy": lambda path: write_grey(path, prediction.entropy, maximum=math.log(max(2, len(self.vocabulary)))),
        }
        return "; ".join(filter(None, (_problem(self.path(kind, name), writers[kind]) for kind in self.kinds)))

    def _write_overlay(self, path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
        image = Image.fromarray(overlay(pixels, labels, self.vocabulary.colours))
        if max(image.size) > LONGEST_JPEG:
            warn_once("overlay", f"{path} is scaled down to {LONGEST_JPEG} pixels, the limit of JPEG; masks keep the size of the image")
            image.thumbnail((LONGEST_JPEG, LONGEST_JPEG))
        write_atomically(image, path, quality=92)

    def _write_top(self, path: Path, prediction: Prediction) -> None:
        assert prediction.top_classes is not None and prediction.top_probabilities is not None
        dtype = np.uint8 if len(self.vocabulary) <= 256 else np.uint16
        classes, probabilities = prediction.top_classes.numpy().astype(dtype), prediction.top_probabilities.numpy().astype(np.float16)
        write_arrays(path, np.savez_compressed, top_classes=classes, top_probabilities=probabilities)

    def _write_features(self, path: Path, features: Features | None) -> None:
        assert features is not None
        sizes = {"covered_size": np.array(features.covered_size), "input_size": np.array(features.input_size)}
        write_arrays(path, np.savez, features=features.features.numpy().astype(np.float16), **sizes)


def _problem(path: Path, write: Callable[[Path], None]) -> str:
    """Write a file; returns the reason if that fails for this image only, else "". Raises `InputError` if it fails for any image."""
    try:
        write(path)
    except InputError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in FILE_NAME_ERRORS:
            raise
        return f"{error}: rename the image, or set the name of its outputs in a list (input=list.txt, lines of path, tab, name)"
    except Exception as error:  # encoders raise anything, and memory can be short for one large image
        return f"cannot write {path}: {type(error).__name__}: {error}"
    return ""


def write_grey(path: Path, values: Tensor | None, maximum: float = 1.0) -> None:
    """Write values (H, W) in 0..`maximum` as a 16-bit grey PNG, in which 65535 is `maximum`. Atomic."""
    assert values is not None
    grey = (values.float() / maximum).clamp(0, 1).mul(65535).round().numpy().astype(np.uint16)
    write_atomically(Image.fromarray(grey), path)


def write_arrays(path: Path, save: Callable[..., None], **arrays: Any) -> None:
    """Write arrays to an npz file with `save`, numpy's savez or savez_compressed. Atomic."""
    with replacing(path) as partial, partial.open("wb") as stream:
        save(stream, **arrays)
