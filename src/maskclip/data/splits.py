"""Split files: lists of the images of a split, with or without their masks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from maskclip.errors import InputError
from maskclip.files import read_text


class FileIndex:
    """Which files exist. Each folder is listed once, because a request for each file is slow on network disks."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def has(self, path: Path) -> bool:
        """Whether `path` is a file."""
        folder = str(path.parent)
        if folder not in self._names:
            try:
                self._names[folder] = {entry.name for entry in os.scandir(folder) if entry.is_file()}
            except OSError:
                self._names[folder] = set()
        return path.name in self._names[folder] or path.is_file()  # names may differ in case or Unicode form


def read_split(path: Path, prefix: str, is_image: Callable[[str], bool]) -> list[tuple[str, str | None]]:
    """The (image, mask) names in a split file, one image per line; the mask is None if the line has none.

    A line is the name of an image, or an image and a mask separated by a tab. They may be separated by blanks if their names
    have none and the whole line is not an image. `prefix` is removed from the start of each name.
    Raises `InputError` if the file is not text or a line has more than two fields.
    """
    pairs = []
    for number, line in enumerate(read_text(path, "data.train, data.val or data.test").split("\n"), start=1):
        if not line.strip():
            continue
        name = line.strip().removeprefix(prefix)
        fields = [field.strip().removeprefix(prefix) for field in line.strip().split("\t")]
        if len(fields) == 1 and not is_image(name) and len(line.split()) == 2:
            fields = [field.removeprefix(prefix) for field in line.split()]
        if len(fields) > 2:
            raise InputError(f"line {number} of {path} has {len(fields)} fields: expected an image and a mask separated by a tab")
        pairs.append((fields[0], fields[1] if fields[1:] else None))
    return pairs
