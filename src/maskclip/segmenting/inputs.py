"""Which images a run segments: files, folders, globs and lists of paths, their pages, and the names of their outputs."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NamedTuple

from maskclip.errors import InputError
from maskclip.files import quoted, read_text, write_text
from maskclip.images.finding import LeftOut, find_images, match_images
from maskclip.images.reading import page_count

BROKEN = "broken.txt"


class Picture(NamedTuple):
    """An image: the file at `path` (absolute), of which the `page` counted from 0, and the `name` of its outputs.

    The outputs of the name "sub/cat.jpg" are masks/sub/cat.jpg.png, overlays/sub/cat.jpg.jpg and so on.
    """

    path: str
    name: str
    page: int = 0


def find_pictures(sources: Sequence[str], output: Path) -> tuple[list[Picture], LeftOut]:
    """All images that `sources` name, each once, in their order, and what was left out of folders and globs.

    A source is an image, a folder (with its subfolders), a glob such as photos/**/*.jpg, or a text file (.txt) of paths.
    photos/a/cat.jpg found in photos/ has the name a/cat.jpg. Raises `InputError` if a source names nothing or is the
    folder `output`, or if two images have the same name.
    """
    left_out = LeftOut()
    return _distinct(p for source in sources for p in _pictures_of(Path(source).expanduser(), output, left_out)), left_out


def with_pages(pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures with all further pages of their files; page 2 of a/scan.tif has the name a/scan.tif.page-0002.

    Opens the files whose format can have several pages. Raises `InputError` if two pages have the same name.
    """
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        counts = threads.map(lambda picture: 1 if picture.page else page_count(Path(picture.path)), pictures)
        return _distinct(
            picture._replace(page=page, name=_page_name(picture.name, page)) if page > picture.page else picture
            for picture, count in zip(pictures, counts, strict=True)
            for page in range(picture.page, max(count, picture.page + 1))
        )


def _page_name(name: str, page: int) -> str:
    return f"{name}.page-{page + 1:04}" if page else name


def _distinct(pictures: Iterable[Picture]) -> list[Picture]:
    """Each page once, in order. Raises `InputError` if two have the same name."""
    distinct: dict[tuple[str, int], Picture] = {}
    owners: dict[str, Picture] = {}
    for picture in pictures:
        page = (picture.path, picture.page)
        if page not in distinct and (other := owners.setdefault(picture.name, picture)) != picture:
            raise InputError(
                f"the outputs of {other.path} and {picture.path} would have the same name, {picture.name}: "
                "give the folder that holds both as input, or each an output of its own"
            )
        distinct.setdefault(page, picture)
    return list(distinct.values())


def _pictures_of(source: Path, output: Path, left_out: LeftOut) -> Iterable[Picture]:
    if source.is_file():
        return _listed(source) if source.suffix.lower() == ".txt" else [Picture(str(source.absolute()), source.name)]
    if source.is_dir():
        root, images = source, find_images(source, left_out, "input")
    elif glob.has_magic(str(source)):
        root, images = match_images(str(source), left_out, "input")
    else:
        raise InputError(f"no such file or folder: {source} (input)")
    if output.resolve() == root.resolve():
        raise InputError(f"output={output} is a folder of the input: name another, such as output={quoted(output / 'segmented')}")
    if not images:
        others = "".join(f"; {sentence}" for sentence in left_out.sentences())
        raise InputError(f"no images in {source} (input){others}")
    folder = root.absolute()
    return [Picture(os.path.join(folder, path), PurePath(path).as_posix()) for path in images]  # noqa: PTH118


def _listed(file: Path) -> Iterator[Picture]:
    """The images in a text file, existing or not: one path a line, after a tab optionally the name of its outputs, after
    another the page, counted from 1.

    What a line cannot hold is in double quotes, as a JSON string.
    """
    lines = [line.strip() for line in read_text(file, "input", errors="surrogateescape").split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"the list {file} names no images (input): give one path a line")
    for line in lines:
        given, name, page = _fields(line)
        path = (file.parent / given).absolute()
        relative = PurePath(given)
        if relative.is_absolute() or ".." in relative.parts:
            relative = PurePath(*path.resolve().parts[1:])  # the whole path: names do not depend on what else is listed
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise InputError(f"{file} (input) has a name of outputs that leads out of their folder: {name}")
        if not page.isascii() or not page.isdigit() or int(page) < 1:
            raise InputError(f"{file} (input) has {page!r} as the page of {given}: give a number from 1")
        yield Picture(str(path), name or _page_name(relative.as_posix(), int(page) - 1), int(page) - 1)


def write_broken(path: Path, pictures: Sequence[Picture], broken: Sequence[tuple[Picture, str]]) -> None:
    """Write the list of images that could not be segmented, with the reasons as comments; it can be given as input.

    Entries of earlier runs stay, except for the `pictures` of this run; without entries there is no file.
    """
    seen = {picture.name for picture in pictures}
    kept = [entry for entry in _read_broken(path) if entry[0].name not in seen]
    lines = [f"# {' '.join(why.split())}\n{_line(*picture)}\n" for picture, why in [*kept, *broken]]
    if lines:
        write_text(
            path, "# could not be segmented; after the tab: the name of the outputs, and the page if not the first\n" + "".join(lines)
        )
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
            given, name, page = _fields(line)
            yield Picture(given, name, int(page) - 1), why


def _line(path: str, name: str, page: int) -> str:
    """A line of a list: fields that a line cannot hold as they are become JSON strings."""
    fields = [path, name, str(page + 1)] if page else [path, name]
    return "\t".join(
        json.dumps(field) if field != field.strip() or field[:1] in '"#' or set("\t\r\n") & set(field) else field for field in fields
    )


def _fields(line: str) -> tuple[str, str, str]:
    """The path of a line, the name of its outputs ("" if it has none), and the page ("1" if it has none)."""
    path, name, page, *_ = [_unquoted(field.strip()) for field in line.split("\t")] + ["", ""]
    return path, name, page or "1"


def _unquoted(field: str) -> str:
    if field.startswith('"') and field.endswith('"'):
        with suppress(ValueError):  # a path that happens to have quotes
            return str(json.loads(field))
    return field
