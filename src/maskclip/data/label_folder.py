"""A folder of label maps of the images of a data set: pseudo labels of any origin, or masks that people have corrected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from maskclip.errors import InputError
from maskclip.files import quoted, read_text
from maskclip.images.label_maps import Colour, read_label_map
from maskclip.images.writing import IGNORED_COLOUR
from maskclip.vocabulary import Vocabulary


class LabelFolder:
    """Label maps in a folder, as `src/segment.py` writes them (`folder`/masks/cat.jpg.png) or any others (`folder`/cat.png).

    The label map of the image a/cat.jpg is a/cat.jpg.png or a/cat.png in the folder `masks` of `folder`, or in `folder` itself
    without such a folder. a/cat.jpg is the path below the root of the data set, or below the folder of its images.

    A label is the index of a class, or 255 (65535 with more than 254 classes) for no label. If `folder` has a legend.json of
    `src/segment.py`, labels are matched to the classes of the data set by name, so the order may differ. Files with colours
    are read by colour, see `read_label_map`.

    `key` is the config key of the folder, for messages. Raises `InputError` for a missing folder and for classes in its
    legend that the data set does not have.
    """

    def __init__(self, folder: str | Path, vocabulary: Vocabulary, key: str) -> None:
        self.folder, self.vocabulary, self.key = Path(folder), vocabulary, key
        if not self.folder.is_dir():
            raise InputError(f"no folder of label maps {self.folder} ({key}): make one with python src/segment.py")
        self.maps = self.folder / "masks" if (self.folder / "masks").is_dir() else self.folder
        names, colours = self._legend()
        indices = {name: index for index, name in enumerate(vocabulary.names)}
        self.dtype: type[np.unsignedinteger] = np.uint8 if len(vocabulary) <= 254 else np.uint16
        self.class_of_label = np.array([indices[name] for name in names], dtype=self.dtype)
        counts = Counter(colours)  # colours that several classes share do not identify a class
        self.colours = {colour: label for label, colour in enumerate(colours) if counts[colour] == 1}
        self.colours.setdefault(IGNORED_COLOUR, vocabulary.ignore_index)

    def _legend(self) -> tuple[Sequence[str], Sequence[Colour]]:
        """The class names and colours of the labels: those of the folder's legend.json, else those of the data set."""
        path = self.folder / "legend.json"
        if not path.is_file():
            return self.vocabulary.names, [(r, g, b) for r, g, b in self.vocabulary.colours]
        try:
            classes = json.loads(read_text(path, self.key))["classes"]
            names, colours = [entry["name"] for entry in classes], [(r, g, b) for r, g, b in (entry["colour"] for entry in classes)]
        except (ValueError, KeyError, TypeError) as cause:
            raise InputError(f"{path} ({self.key}) is not a legend of src/segment.py: remove it, or make the label maps again") from cause
        if unknown := [name for name in names if name not in self.vocabulary.names]:
            raise InputError(
                f"the label maps in {self.folder} ({self.key}) have classes that the data set lacks: {', '.join(unknown)}. "
                "Segment with the same classes, or choose classes=... with these names"
            )
        return names, colours

    def find(self, image: PurePath, images: PurePath) -> Path | None:
        """The label map of an image, or None. `image`, `images`: the image and the folder of all images, as paths below the root."""
        names = [image, *([image.relative_to(images)] if images.parts and image.is_relative_to(images) else [])]
        candidates = (self.maps / path for name in names for path in (f"{name}.png", name.with_suffix(".png")))
        return next((path for path in candidates if path.is_file()), None)

    def missing(self, absent: Sequence[PurePath], total: int) -> InputError:
        """The error about images without a label map, paths below the root."""
        return InputError(
            f"{len(absent)} of {total} training images have no label map in {self.maps} ({self.key}), such as {absent[0]}: expected "
            f"{absent[0].name}.png or {absent[0].with_suffix('.png').name}. Finish the run of src/segment.py "
            f"with output={quoted(self.folder)}, or leave the images out with a split file (data.train)"
        )

    def read(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        """Class indices (H, W), uint8 or uint16, of an image of this shape; ignored pixels have the ignored label of the vocabulary.

        Raises `InputError` for a file of another size and for values without a class.
        """
        stored = read_label_map(path, self.colours)
        if stored.shape != shape:
            raise InputError(
                f"the label map {path} ({self.key}) is {stored.shape[1]} x {stored.shape[0]} pixels, its image {shape[1]} x {shape[0]}: "
                "save it at the size of the image"
            )
        ignored, count = self.vocabulary.ignore_index, len(self.class_of_label)
        if unknown := [value for value in np.unique(stored).tolist() if not (0 <= value < count or value == ignored)]:
            raise InputError(
                f"the label map {path} ({self.key}) has the values {unknown[:10]}, but there are {count} classes (values 0..{count - 1}; "
                f"{ignored} ignored): save class indices, not colours or grey levels"
            )
        table = np.append(self.class_of_label, self.dtype(ignored))
        return table[np.minimum(stored, count)]
