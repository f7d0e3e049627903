"""The images that a run segments: files, folders, globs and lists of paths, their pages, and the names of their outputs."""

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
GIVE_IMAGES = "give an image, a folder or a glob, as in input=photos/"
HEADER = "# could not be segmented; after the tab: the name of the outputs, and the page if not the first\n"


class InputImage(NamedTuple):
    """One page of an image file: the absolute `path`, the `name` of its outputs, and the `page`, counted from 0.

    The outputs of the name "sub/cat.jpg" are masks/sub/cat.jpg.png, overlays/sub/cat.jpg.jpg and so on.
    """

    path: str
    name: str
    page: int = 0


def find_inputs(sources: Sequence[str], output: Path) -> tuple[list[InputImage], LeftOut]:
    """The images of all `sources`, each once and in order, and the files of folders and globs that were left out.

    A source is an image, a folder (with its subfolders), a glob such as photos/**/*.jpg, or a text file (.txt) of paths.
    The image photos/a/cat.jpg of the source photos/ has the name a/cat.jpg. Raises `InputError` if a source has no images or
    is the folder `output`, or if two images have the same name.
    """
    left_out = LeftOut()
    images = (image for source in sources for image in _images_of(Path(source).expanduser(), output, left_out))
    return _distinct(images), left_out


def with_pages(images: Sequence[InputImage]) -> list[InputImage]:
    """The images and all further pages of their files; page 2 of a/scan.tif has the name a/scan.tif.page-0002.

    Opens the files whose format can have several pages. Raises `InputError` if two pages have the same name.
    """
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        counts = threads.map(lambda image: 1 if image.page else page_count(Path(image.path)), images)
        return _distinct(
            image._replace(page=page, name=_page_name(image.name, page)) if page > image.page else image
            for image, count in zip(images, counts, strict=True)
            for page in range(image.page, max(count, image.page + 1))
        )


def _page_name(name: str, page: int) -> str:
    return f"{name}.page-{page + 1:04}" if page else name


def _distinct(images: Iterable[InputImage]) -> list[InputImage]:
    """Each page once, in order. Raises `InputError` if two pages have the same name."""
    distinct: dict[tuple[str, int], InputImage] = {}
    owners: dict[str, InputImage] = {}
    for image in images:
        page = (image.path, image.page)
        if page not in distinct and (other := owners.setdefault(image.name, image)) != image:
            raise InputError(
                f"the outputs of {other.path} and {image.path} would have the same name, {image.name}: "
                "use the folder that contains both as input, or an output folder for each"
            )
        distinct.setdefault(page, image)
    return list(distinct.values())


def _images_of(source: Path, output: Path, left_out: LeftOut) -> Iterable[InputImage]:
    if source.is_file():
        return _listed(source) if source.suffix.lower() == ".txt" else [InputImage(str(source.absolute()), source.name)]
    if source.is_dir():
        root, paths = source, find_images(source, left_out, "input")
    elif glob.has_magic(str(source)):
        root, paths = match_images(str(source), left_out, "input")
    else:
        raise InputError(f"no such file or folder: {source} (input): {GIVE_IMAGES}")
    if output.resolve() == root.resolve():
        raise InputError(f"output={output} is a folder of the input: use another one, such as output={quoted(output / 'segmented')}")
    if not paths:
        others = "".join(f"; {sentence}" for sentence in left_out.sentences())
        raise InputError(f"no images in {source} (input): {GIVE_IMAGES}{others}")
    folder = root.absolute()
    return [InputImage(os.path.join(folder, path), PurePath(path).as_posix()) for path in paths]  # noqa: PTH118


def _listed(file: Path) -> Iterator[InputImage]:
    """The images in a text file, whether or not they exist.

    A line is a path, optionally followed by a tab and the name of the outputs, and by another tab and the page, counted
    from 1. Fields with special characters are JSON strings.
    """
    lines = [line.strip() for line in read_text(file, "input", errors="surrogateescape").split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"the list {file} has no images (input): write one path per line")
    for line in lines:
        listed, name, page = _fields(line)
        path = (file.parent / listed).absolute()
        relative = PurePath(listed)
        if relative.is_absolute() or ".." in relative.parts:
            relative = PurePath(*path.resolve().parts[1:])  # the whole path: names do not depend on what else is listed
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise InputError(f"{file} (input) has a name of outputs outside of the output folder: {name}")
        if not page.isascii() or not page.isdigit() or int(page) < 1:
            raise InputError(f"{file} (input) has {page!r} as the page of {listed}: give a number from 1")
        yield InputImage(str(path), name or _page_name(relative.as_posix(), int(page) - 1), int(page) - 1)


def write_broken(path: Path, images: Sequence[InputImage], broken: Sequence[tuple[InputImage, str]]) -> None:
    """Write the list of images that could not be segmented, with the reasons as comments. The list can be used as input.

    Entries of earlier runs stay, except for the `images` of this run. Without entries the file is removed.
    """
    names = {image.name for image in images}
    kept = [entry for entry in _read_broken(path) if entry[0].name not in names]
    lines = [f"# {' '.join(reason.split())}\n{_line(*image)}\n" for image, reason in [*kept, *broken]]
    if lines:
        write_text(path, HEADER + "".join(lines))
    else:
        path.unlink(missing_ok=True)


def _read_broken(path: Path) -> Iterator[tuple[InputImage, str]]:
    if not path.is_file():
        return
    reason = ""
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[1:]:
        if line.startswith("# "):
            reason = line[2:]
        elif "\t" in line:
            source, name, page = _fields(line)
            yield InputImage(source, name, int(page) - 1), reason


def _line(path: str, name: str, page: int) -> str:
    """A line of a list. Fields that a line cannot hold as they are become JSON strings."""
    fields = [path, name, str(page + 1)] if page else [path, name]
    return "\t".join(
        json.dumps(field) if field != field.strip() or field[:1] in '"#' or set("\t\r\n") & set(field) else field for field in fields
    )


def _fields(line: str) -> tuple[str, str, str]:
    """The path of a line, the name of its outputs ("" by default), and the page ("1" by default)."""
    path, name, page, *_ = [_unquoted(field.strip()) for field in line.split("\t")] + ["", ""]
    return path, name, page or "1"


def _unquoted(field: str) -> str:
    if field.startswith('"') and field.endswith('"'):
        with suppress(ValueError):  # a path that happens to have quotes
            return str(json.loads(field))
    return field
