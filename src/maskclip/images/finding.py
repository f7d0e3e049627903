"""The images of a folder: the one walk that segmenting, data sets of one's own and the inspection of data share."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path

from maskclip.errors import InputError
from maskclip.images.reading import IMAGE_SUFFIXES, KNOWN_UNREADABLE

RECORDS = (
    ("segment.json", '"settings"', ("masks", "overlays", "confidence", "margin", "entropy", "top", "features")),
    ("segment.json", '"settings"', ("legend.png", "legend.json", "segment.json", "sources.jsonl", "broken.txt")),
    (".hydra/config.yaml", "maskclip", ("checkpoints", "crops", "images", "wandb")),
    ("results.json", '"protocol_hash"', ("checkpoints", "crops", "images", "wandb")),
    ("summary.json", '"harmonic"', ("overview.png",)),
    ("report.json", '"problems"', ("sheet.png",)),
)
"""Files by which a folder with outputs of this program is recognised, a text that they contain, and the outputs beside them."""
THUMBNAILS = ("@eaDir", "__MACOSX")
"""Folders in which network storage and archives keep reduced copies of images; like hidden ones, they are not searched."""


@dataclass
class LeftOut:
    """What a walk left out.

    How many files of each suffix are not images that can be read, the folders that have `outputs` of earlier runs, and
    the folders that are `closed` to this user.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    outputs: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    @property
    def unreadable(self) -> str:
        """The images in formats that cannot be read here, by suffix, with the remedies; "" if there are none."""
        suffixes = [suffix for suffix, _ in self.suffixes.most_common() if suffix in KNOWN_UNREADABLE]
        remedies = "; ".join(f"{suffix}: {KNOWN_UNREADABLE[suffix]}" for suffix in suffixes)
        return f"{self._count(suffixes)} ({remedies})" if suffixes else ""

    def sentences(self) -> list[str]:
        """One sentence for each kind of thing that was left out."""
        others = self._count([suffix for suffix, _ in self.suffixes.most_common() if suffix not in KNOWN_UNREADABLE])
        kinds = {
            "images in formats that cannot be read": self.unreadable,
            "files that are not images": others,
            "outputs of earlier runs": _some(self.outputs),
            "folders that cannot be opened": _some(self.closed),
        }
        return [f"left out: {kind}: {what}" for kind, what in kinds.items() if what]

    def _count(self, suffixes: list[str]) -> str:
        return _some([f"{self.suffixes[suffix]} {suffix or 'without suffix'}" for suffix in suffixes], 8)


def find_images(root: Path, left_out: LeftOut, key: str) -> list[str]:
    """The paths below `root` of all images there and in subfolders, sorted; what is left out is noted in `left_out`.

    Links to folders are followed, and each folder is visited once. Hidden files and folders are not searched, nor are
    the outputs of earlier runs. Raises `InputError` if `root`, from the setting `key`, itself lies in such outputs.
    """
    return _images(find_files(root, left_out, key), left_out)


def find_files(root: Path, left_out: LeftOut, key: str) -> list[str]:
    """The paths below `root` of the files that `find_images` chooses from, sorted."""
    _check_root(root, key)
    prefix = len(os.path.join(root, ""))  # noqa: PTH118  # of a million files
    return sorted(os.path.join(place, name)[prefix:] for place, names in _visit(str(root), left_out) for name in names)  # noqa: PTH118


def match_images(pattern: str, left_out: LeftOut, key: str) -> tuple[Path, list[str]]:
    """The folder before the first wildcard of a glob, and the paths below it of the images that match, as in `find_images`."""
    root = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    _check_root(root, key)
    visited: dict[str, str] = {}

    @cache
    def shown(folder: str) -> Callable[[str], bool] | None:
        """Which names in a folder below `root` are searched; None if it is not."""
        parent, name = os.path.split(folder)
        if folder and not ((in_parent := shown(parent)) and in_parent(name)):
            return None
        place = os.path.join(root, folder)  # noqa: PTH118
        if _is_link_to_outputs(place, left_out):
            return None
        return _shown_in(place, left_out) if visited.setdefault(os.path.realpath(place), folder) == folder else None

    @cache
    def is_linked(folder: str) -> bool:
        """Whether a folder below `root` is a link or lies in one."""
        return folder != "" and (os.path.islink(os.path.join(root, folder)) or is_linked(os.path.dirname(folder)))  # noqa: PTH114, PTH118, PTH120

    matches = [os.path.relpath(path, root) for path in glob.iglob(str(Path(pattern)), recursive=True)]  # noqa: PTH207
    files = []
    for relative in sorted(matches, key=lambda match: (is_linked(os.path.dirname(match)), match)):  # noqa: PTH120
        path = os.path.join(root, relative)  # noqa: PTH118
        in_folder = shown(os.path.dirname(relative))  # noqa: PTH120
        if in_folder and in_folder(os.path.basename(path)) and _is_file(path):  # noqa: PTH119
            files.append(relative)
    return root, _images(sorted(files), left_out)


def _visit(root: str, left_out: LeftOut) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the names of its files; linked folders after all others, so that no name depends on a link to it."""
    waiting, visited = [root], set[str]()
    while waiting:
        for place, folders, files in os.walk(waiting.pop(0), onerror=lambda error: left_out.closed.append(str(error.filename))):
            real = os.path.realpath(place)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            shown = _shown_in(place, left_out)
            folders[:] = sorted(filter(shown, folders))
            links = [path for name in folders if os.path.islink(path := os.path.join(place, name))]  # noqa: PTH114, PTH118
            waiting += [path for path in links if not _is_link_to_outputs(path, left_out)]
            yield place, [name for name in filter(shown, files) if _is_file(os.path.join(place, name))]  # noqa: PTH118


def _shown_in(folder: str, left_out: LeftOut) -> Callable[[str], bool]:
    """Tells which names in a folder are searched; notes the folder in `left_out` when it holds others that are outputs."""
    outputs = _outputs_in(folder)

    def shown(name: str) -> bool:
        if name in outputs and folder not in left_out.outputs:
            left_out.outputs.append(folder)
        return not name.startswith(".") and name not in THUMBNAILS and name not in outputs

    return shown


def _outputs_in(folder: str) -> set[str]:
    """The names of files and folders in a folder that this program has written, by the records there."""
    return {name for record, mark, names in RECORDS if _contains(os.path.join(folder, record), mark) for name in names}  # noqa: PTH118


def _contains(path: str, mark: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return mark in file.read()
    except OSError:
        return False


def _check_root(root: Path, key: str) -> None:
    if outputs := _outputs_above(root):
        raise InputError(f"{root} ({key}) holds outputs of an earlier run ({outputs}): give the folder of the original images")


def _outputs_above(folder: Path) -> Path | None:
    """The outputs of an earlier run that a folder is or lies in."""
    inner = folder.resolve()
    paths = (outer / inner.relative_to(outer).parts[0] for outer in inner.parents)
    return next((path for path in paths if path.name in _outputs_in(str(path.parent))), None)


def _is_link_to_outputs(folder: str, left_out: LeftOut) -> bool:
    """Whether a folder is a link to outputs of an earlier run, which is noted in `left_out`."""
    is_one = os.path.islink(folder) and _outputs_above(Path(folder)) is not None  # noqa: PTH114
    if is_one:
        left_out.outputs.append(folder)
    return is_one


def _is_file(path: str) -> bool:
    """Whether a path is a file or a link that leads nowhere: reading that gives an error, and leaving it out would give none."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))  # noqa: PTH110, PTH113, PTH114


def _images(files: Iterable[str], left_out: LeftOut) -> list[str]:
    images = []
    for file in files:
        suffix = os.path.splitext(file)[1].lower()  # noqa: PTH122
        if suffix in IMAGE_SUFFIXES:
            images.append(file)
        else:
            left_out.suffixes[suffix] += 1
    return images


def _some(entries: list[str], most: int = 3) -> str:
    return ", ".join(entries[:most]) + (f" and {len(entries) - most} more" if len(entries) > most else "")
