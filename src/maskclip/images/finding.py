"""Search for images in folders and globs, without hidden files and outputs of earlier runs.

The functions use `os.path` because pathlib takes too long for a million files.
"""

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
    (".hydra/config.yaml", "maskclip", ("checkpoints", "crops", "saved_images", "wandb")),
    ("results.json", '"protocol_hash"', ("checkpoints", "crops", "saved_images", "wandb")),
    ("summary.json", '"harmonic"', ("overview.png",)),
    ("report.json", '"problems"', ("sheet.png",)),
)
"""Records of runs: file name, a text that it contains, and the names of the outputs in the same folder."""
THUMBNAILS = ("@eaDir", "__MACOSX")
"""Folders of thumbnails that network storage and archives create; like hidden folders, they are not searched."""


@dataclass
class LeftOut:
    """What a search skipped.

    `suffixes`: number of files that are not readable images, by suffix. `outputs`: folders with outputs of earlier runs.
    `closed`: folders that the user has no permission to open.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    outputs: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    @property
    def unreadable(self) -> str:
        """The number of images in formats that this installation cannot read, by suffix, with remedies; "" if there are none."""
        suffixes = [suffix for suffix, _ in self.suffixes.most_common() if suffix in KNOWN_UNREADABLE]
        remedies = "; ".join(f"{suffix}: {KNOWN_UNREADABLE[suffix]}" for suffix in suffixes)
        return f"{self._count(suffixes)} ({remedies})" if suffixes else ""

    def sentences(self) -> list[str]:
        """One sentence for each kind of skipped file or folder."""
        others = self._count([suffix for suffix, _ in self.suffixes.most_common() if suffix not in KNOWN_UNREADABLE])
        skipped = {
            "images in formats that cannot be read": self.unreadable,
            "files that are not images": others,
            "outputs of earlier runs": _shortened(self.outputs),
            "folders that cannot be opened": _shortened(self.closed),
        }
        return [f"left out: {kind}: {entries}" for kind, entries in skipped.items() if entries]

    def _count(self, suffixes: list[str]) -> str:
        return _shortened([f"{self.suffixes[suffix]} {suffix or 'without suffix'}" for suffix in suffixes], 8)


def find_images(root: Path, left_out: LeftOut, key: str) -> list[str]:
    """Paths relative to `root` of all images in it and its subfolders, sorted. Skipped files are added to `left_out`.

    Links to folders are followed, and each folder is visited once. Hidden files and folders and outputs of earlier runs are
    skipped. Raises `InputError` if `root`, the value of the setting `key`, is inside such outputs.
    """
    return _images(find_files(root, left_out, key), left_out)


def find_files(root: Path, left_out: LeftOut, key: str) -> list[str]:
    """Paths relative to `root` of all files that `find_images` considers, sorted."""
    _check_root(root, key)
    prefix = len(os.path.join(root, ""))  # pathlib is too slow for a million files
    return sorted(os.path.join(folder, name)[prefix:] for folder, names in _visit(str(root), left_out) for name in names)


def match_images(pattern: str, left_out: LeftOut, key: str) -> tuple[Path, list[str]]:
    """The folder before the first wildcard of a glob, and the matching images as `find_images` returns them.

    The search does not leave the folders that the glob leads to.
    """
    root = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    _check_root(root, key)
    name_of: dict[str, str] = {}  # the first name of each folder, by its real path

    @cache
    def name_filter(folder: str) -> Callable[[str], bool] | None:
        """The filter of names in a folder below `root`; None if the folder is skipped."""
        parent, name = os.path.split(folder)
        if folder and not ((is_searched := name_filter(parent)) and is_searched(name)):
            return None
        path = os.path.join(root, folder)
        if _is_link_to_outputs(path, left_out):
            return None
        return _name_filter(path, left_out) if name_of.setdefault(os.path.realpath(path), folder) == folder else None

    @cache
    def is_linked(folder: str) -> bool:
        """Whether a folder below `root` is a link or is inside one."""
        return folder != "" and (os.path.islink(os.path.join(root, folder)) or is_linked(os.path.dirname(folder)))

    matches = [os.path.relpath(path, root) for path in glob.iglob(str(Path(pattern)), recursive=True)]
    files = []
    for relative in sorted(matches, key=lambda match: (is_linked(os.path.dirname(match)), match)):
        path = os.path.join(root, relative)
        is_searched = name_filter(os.path.dirname(relative))
        if is_searched and is_searched(os.path.basename(path)) and _is_file(path):
            files.append(relative)
    return root, _images(sorted(files), left_out)


def _visit(root: str, left_out: LeftOut) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder with the names of its files. Linked folders come last, so that a folder keeps its own name."""
    pending, visited = [root], set[str]()
    while pending:
        for folder, subfolders, files in os.walk(pending.pop(0), onerror=lambda error: left_out.closed.append(str(error.filename))):
            real_path = os.path.realpath(folder)
            if real_path in visited:
                subfolders.clear()
                continue
            visited.add(real_path)
            is_searched = _name_filter(folder, left_out)
            subfolders[:] = sorted(filter(is_searched, subfolders))
            links = [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
            pending += [path for path in links if not _is_link_to_outputs(path, left_out)]
            yield folder, [name for name in filter(is_searched, files) if _is_file(os.path.join(folder, name))]


def _name_filter(folder: str, left_out: LeftOut) -> Callable[[str], bool]:
    """A function that returns whether a name in `folder` is searched. It adds the folder to `left_out` if the name is an output."""
    outputs = _outputs_in(folder)

    def is_searched(name: str) -> bool:
        if name in outputs and folder not in left_out.outputs:
            left_out.outputs.append(folder)
        return not name.startswith(".") and name not in THUMBNAILS and name not in outputs

    return is_searched


def _outputs_in(folder: str) -> set[str]:
    """The names of outputs of earlier runs in a folder, according to the records in it."""
    return {name for record, text, names in RECORDS if _contains(os.path.join(folder, record), text) for name in names}


def _contains(path: str, text: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return text in file.read()
    except OSError:
        return False


def _check_root(root: Path, key: str) -> None:
    if outputs := _outputs_above(root):
        raise InputError(f"{root} ({key}) has outputs of an earlier run ({outputs}): give the folder of the original images")


def _outputs_above(folder: Path) -> Path | None:
    """The outputs of an earlier run that contain a folder, or None."""
    folder = folder.resolve()
    paths = (parent / folder.relative_to(parent).parts[0] for parent in folder.parents)
    return next((path for path in paths if path.name in _outputs_in(str(path.parent))), None)


def _is_link_to_outputs(folder: str, left_out: LeftOut) -> bool:
    """Whether a folder is a link to outputs of an earlier run; if so, add it to `left_out`."""
    is_output = os.path.islink(folder) and _outputs_above(Path(folder)) is not None
    if is_output:
        left_out.outputs.append(folder)
    return is_output


def _is_file(path: str) -> bool:
    """Whether a path is a file or a broken link. Reading a broken link is an error; skipping it would hide the error."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def _images(files: Iterable[str], left_out: LeftOut) -> list[str]:
    """The files with a suffix of images; others are counted in `left_out`."""
    images = []
    for file in files:
        suffix = os.path.splitext(file)[1].lower()
        if suffix in IMAGE_SUFFIXES:
            images.append(file)
        else:
            left_out.suffixes[suffix] += 1
    return images


def _shortened(entries: list[str], limit: int = 3) -> str:
    return ", ".join(entries[:limit]) + (f" and {len(entries) - limit} more" if len(entries) > limit else "")
