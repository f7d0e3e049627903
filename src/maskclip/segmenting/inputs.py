"""Which pictures are meant: files, folders, globs and lists of paths; and under which name the outputs of each go."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path, PurePath
from typing import NamedTuple

from maskclip.data.images import IMAGE_SUFFIXES
from maskclip.errors import InputError
from maskclip.files import write_text

BROKEN = "broken.txt"


class Picture(NamedTuple):
    """A picture at `path` (absolute); `name`, such as "sub/cat", is where its outputs lie below their folders, less a suffix."""

    path: str
    name: str


class _Found(NamedTuple):
    path: str
    relative: PurePath  # with the suffix
    name: str | None = None  # if a list gives one


def find_pictures(sources: Sequence[str], output: Path) -> list[Picture]:
    """All pictures that `sources` name, each once, in their order.

    A source is a picture, a folder (with its subfolders), a glob such as photos/**/*.jpg, or a text file (.txt) of paths.
    What is hidden or lies in the folder `output` is none. photos/a/cat.jpg found in photos/ has the name a/cat; beside a
    cat.png it is a/cat_jpg. Raises `InputError` if a source names nothing, or if two pictures have the same name.
    """
    found: dict[str, _Found] = {}
    for source in sources:
        for picture in _pictures_of(Path(source).expanduser(), output):
            found.setdefault(picture.path, picture)
    return _named(list(found.values()))


def _pictures_of(source: Path, output: Path) -> Iterable[_Found]:
    if source.is_file():
        return _listed(source) if source.suffix.lower() == ".txt" else [_Found(str(source.absolute()), PurePath(source.name))]
    if source.is_dir():
        return _within(source, _walk(source), output, f"in {source}")
    if not glob.has_magic(str(source)):
        raise InputError(f"no such file or folder: {source} (input)")
    plain = takewhile(lambda part: not glob.has_magic(part), source.parts)
    return _within(Path(*plain), map(Path, glob.iglob(str(source), recursive=True)), output, f"fit {source}")  # noqa: PTH207


def _walk(root: Path) -> Iterator[Path]:
    """All files below a folder, in linked folders too; of a circle of links, once around."""
    seen: set[str] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in files)


def _within(root: Path, candidates: Iterable[Path], output: Path, where: str) -> list[_Found]:
    """Those of the candidates below `root` that are pictures; not the overlays that an earlier run put there."""
    own = output.resolve()
    if own == root.resolve():
        raise InputError(f"output={output} is a folder of the input: name another, such as output={output / 'segmented'}")
    inside = own.relative_to(root.resolve()) if own.is_relative_to(root.resolve()) else None
    found = []
    for path in candidates:
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts) or (inside is not None and relative.is_relative_to(inside))
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            found.append(_Found(str(path.absolute()), relative))
    if not found:
        raise InputError(f"no images {where} (input; looked for {', '.join(sorted(IMAGE_SUFFIXES))}, in subfolders too)")
    return sorted(found)


def _listed(file: Path) -> Iterator[_Found]:
    """The pictures of a text file, there or not: one path a line, and behind a tab, if it is there, the name of its outputs.

    What no line could hold is in double quotes, as a JSON string.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as cause:
        raise InputError(f"cannot read the list {file} (input): {cause.strerror}") from cause
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"the list {file} names no images (input): give one path a line")
    for line in lines:
        given, name = _fields(line)
        path = (file.parent / given).absolute()
        relative = PurePath(given)
        if relative.is_absolute() or ".." in relative.parts:
            relative = PurePath(*path.resolve().parts[1:])  # the whole path: names do not depend on what else is listed
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise InputError(f"{file} (input) has a name of outputs that leads out of their folder: {name}")
        yield _Found(str(path), relative, name or None)


def _named(found: Sequence[_Found]) -> list[Picture]:
    stems = Counter(picture.relative.with_suffix("") for picture in found if picture.name is None)
    pictures = []
    for path, relative, name in found:
        stem = relative.with_suffix("")
        if stems[stem] > 1:
            stem = stem.with_name(f"{stem.name}_{relative.suffix[1:]}")
        pictures.append(Picture(path, name or stem.as_posix()))
    taken: dict[str, str] = {}
    for path, name in pictures:
        if (other := taken.setdefault(name, path)) != path:
            raise InputError(
                f"{other} and {path} would be written to the same place, {name}: rename one, or give each an output of its own"
            )
    return pictures


def write_broken(path: Path, pictures: Sequence[Picture], broken: Sequence[tuple[Picture, str]]) -> None:
    """Write the list of pictures that could not be read, with the reasons as comments; it can be given as input.

    What `path` has already stays, but for the `pictures` of this run; without any, there is no file.
    """
    seen = {picture.name for picture in pictures}
    kept = [entry for entry in _read_broken(path) if entry[0].name not in seen]
    lines = [f"# {' '.join(why.split())}\n{_line(*picture)}\n" for picture, why in [*kept, *broken]]
    if lines:
        write_text(path, "# could not be read; behind the tab: the name of the outputs\n" + "".join(lines))
    else:
        path.unlink(missing_ok=True)


def _read_broken(path: Path) -> Iterator[tuple[Picture, str]]:
    if not path.is_file():
        return
    why = ""
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[1:]:
        if line.startswith("# "):
            why = line[2:]
        elif "\t" in line:
            yield Picture(*_fields(line)), why


def _line(*fields: str) -> str:
    """Fields as a line of a list: those that a line cannot hold as they are become JSON strings."""
    return "\t".join(
        json.dumps(field) if field != field.strip() or field[:1] in '"#' or set("\t\r\n") & set(field) else field for field in fields
    )


def _fields(line: str) -> tuple[str, str]:
    """The path of a line, and the name, "" if there is none."""
    path, _, name = line.partition("\t")
    return _unquoted(path.strip()), _unquoted(name.strip())


def _unquoted(field: str) -> str:
    if field.startswith('"') and field.endswith('"'):
        with suppress(ValueError):  # a path that happens to have quotes
            return str(json.loads(field))
    return field
