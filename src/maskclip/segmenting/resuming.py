"""Resume a run of segmenting: which images are finished, and which settings must be the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from maskclip.errors import InputError, changed_keys, changes
from maskclip.files import remove_stale, write_json, writing
from maskclip.segmenting.inputs import BROKEN, InputImage
from maskclip.segmenting.outputs import FOLDERS, Outputs

RECORD = "segment.json"
FORMAT = 2
"""Version of the record and of the names of outputs. In records without a version, the output of a/cat.jpg is masks/a/cat.png."""
SOURCES = "sources.jsonl"
"""One line per image, [name, path, size in bytes, time of the last change in ns]. The last line of a name counts."""

ANOTHER_OUTPUT = "use another output, or overwrite=true to start over"
"""The remedy for a folder with outputs of other settings."""


class Source(NamedTuple):
    """The image file that outputs were made from."""

    path: str
    size: int
    changed: int

    def is_unchanged(self, other: Source) -> bool:
        """Whether `other` is the same file, in the same place or moved to another one."""
        unchanged = (self.size, self.changed) == (other.size, other.changed)
        return unchanged and (self.path == other.path or not os.path.exists(self.path))  # noqa: PTH110


def prepare(
    outputs: Outputs, images: Sequence[InputImage], settings: Mapping[str, Any], overwrite: bool = False, remedy: str = ANOTHER_OUTPUT
) -> list[InputImage]:
    """Prepare the output folder; returns the `images` that are not finished, in order.

    Removes partial files of killed runs and the outputs of images that have changed. Writes the legend, segment.json with
    the `settings` that outputs depend on, and sources.jsonl with the source of each output. These records are written before
    the outputs, so that a kill never leaves outputs with wrong records. `overwrite` first removes the outputs of all earlier
    runs. Raises `InputError` if the folder has outputs of other settings, with `remedy`, of other images or of another program.
    """
    folder, recorded = outputs.folder, json.loads(json.dumps(settings))  # tuples become lists, as in the record of an earlier run
    record = _open(folder)
    if overwrite and record is not None:
        _remove_all(folder)
        record = None
    remove_stale(folder)
    if record is not None:
        _check_settings(folder, record, recorded, remedy)
        recorded["top"] = recorded.get("top") or record["settings"].get("top")
    recorded_sources = _read_sources(folder / SOURCES)
    sources = {image.name: _source(image) for image in images}
    for name, source in sources.items():
        if source is not None:
            _remove_outdated(outputs, name, source, recorded_sources.get(name))
    todo = [image for image in images if sources[image.name] is None or not _is_finished(outputs, image.name)]
    write_json(folder / RECORD, {"format": FORMAT, "settings": recorded})
    outputs.write_legend()
    new_sources = {name: source for name, source in sources.items() if source is not None and source != recorded_sources.get(name)}
    _append_sources(folder / SOURCES, new_sources)
    return todo


def _open(folder: Path) -> dict[str, Any] | None:
    """Create an output folder or read the record of an earlier run. Raises `InputError` for outputs without a record."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    used = any(_outputs_in(folder))  # before the record is read: a run writes its record before its outputs
    record = _read(folder / RECORD)
    if used and record is None:
        kinds = ", ".join(kind for kind in FOLDERS if (folder / kind).is_dir())
        raise InputError(f"{folder} has files in {kinds} but no {RECORD}, so this program did not write them: use another output")
    return record


def _outputs_in(folder: Path) -> Iterator[Path]:
    for kind, (suffix, _) in FOLDERS.items():
        yield from (path for path in (folder / kind).rglob(f"*{suffix}") if path.is_file())


def _remove_all(folder: Path) -> None:
    write_json(folder / RECORD, {"format": FORMAT, "settings": None})  # a kill must not leave old outputs beside new settings
    for path in [*_outputs_in(folder), folder / SOURCES, folder / BROKEN]:
        path.unlink(missing_ok=True)
    for kind in FOLDERS:
        for place, _, _ in os.walk(folder / kind, topdown=False):
            with suppress(OSError):  # the folder has other files
                os.rmdir(place)  # noqa: PTH106


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"format": record.get("format"), "settings": record["settings"]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, AttributeError) as cause:
        raise InputError(
            f"{path} is not the record of a run of src/segment.py ({type(cause).__name__}): use another output, or delete the folder"
        ) from cause


def _check_settings(folder: Path, record: dict[str, Any], now: dict[str, Any], remedy: str) -> None:
    before = record["settings"]
    if record["format"] != FORMAT:
        raise InputError(f"{folder} has outputs of another version of this program with other file names: {remedy}")
    if before is None:
        raise InputError(f"a run with overwrite=true was killed while it emptied {folder}: use overwrite=true again")
    differ = changed_keys(before, now)
    if None in (before.get("top"), now.get("top")):  # one of the runs does not write them
        differ = [key for key in differ if key != "top"]
    if "classes.names" in differ:  # these follow from the names
        differ = [key for key in differ if key not in ("classes.prompts", "classes.palette", "model.text_sha256")]
    if differ:
        raise InputError(f"{folder} has outputs with other settings ({changes(differ, before, now)}): {remedy}")


def _read_sources(path: Path) -> dict[str, Source]:
    """The recorded sources by the names of their outputs."""
    sources = {}
    try:
        with path.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                with suppress(ValueError, TypeError):  # the last line of a killed run: its outputs were not begun
                    name, *source = json.loads(line)
                    sources[name] = Source(*source)
    except FileNotFoundError:
        pass
    return sources


def _append_sources(path: Path, sources: Mapping[str, Source]) -> None:
    """Append whole lines: other runs may append at the same time."""
    if sources:
        with writing(path), path.open("a", encoding="ascii") as file:
            file.write("\n" * (path.stat().st_size > 0) + "".join(f"{json.dumps([n, *s])}\n" for n, s in sources.items()))


def _source(image: InputImage) -> Source | None:
    """The file of an image; None if it does not exist."""
    try:
        status = os.stat(image.path)  # noqa: PTH116  # a million of them
    except OSError:
        return None
    return Source(image.path, status.st_size, status.st_mtime_ns)


def _remove_outdated(outputs: Outputs, name: str, now: Source, before: Source | None) -> None:
    """Remove the outputs of this name if the image has changed. Raises `InputError` if they are of another image."""
    if before is not None and before.is_unchanged(now):
        return
    old = [path for path in (outputs.path(kind, name) for kind in FOLDERS) if os.path.isfile(path)]  # noqa: PTH113
    if old and before is not None and before.path != now.path:
        raise InputError(f"{old[0]} was made from {before.path}, not from {now.path}: use another output")
    for path in old:
        path.unlink()


def _is_finished(outputs: Outputs, name: str) -> bool:
    return all(os.path.isfile(outputs.path(kind, name)) for kind in outputs.kinds)  # noqa: PTH113  # False where a name is too long
