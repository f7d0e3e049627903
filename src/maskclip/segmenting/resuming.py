"""How a run goes on where another one stopped, and what it must have in common with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from maskclip.errors import InputError, changed_keys, changes
from maskclip.files import remove_stale, write_json, writing
from maskclip.segmenting.inputs import BROKEN, Picture
from maskclip.segmenting.outputs import FOLDERS, Outputs

RECORD = "segment.json"
FORMAT = 2
"""Version of the record and of the names of outputs: without one, a/cat.jpg became masks/a/cat.png."""
SOURCES = "sources.jsonl"
"""A line for each picture, [name, path, bytes, time of the last change in ns]; of several for one name the last one counts."""


class Source(NamedTuple):
    """Which picture outputs are of."""

    path: str
    size: int
    changed: int

    def is_now(self, other: Source) -> bool:
        """Whether it is that picture: unchanged, in its place or moved from there."""
        unchanged = (self.size, self.changed) == (other.size, other.changed)
        return unchanged and (self.path == other.path or not os.path.exists(self.path))  # noqa: PTH110


def prepare(outputs: Outputs, pictures: Sequence[Picture], settings: Mapping[str, Any], overwrite: bool = False) -> list[Picture]:
    """Make the folder of outputs ready; returns those `pictures` that are still to be done, in their order.

    Removes what killed runs left half-written and the outputs of pictures that have changed. Writes the legend, segment.json
    with the `settings` that outputs depend on, and sources.jsonl with what each output is of, before there are any outputs:
    a kill at any moment leaves none that is of something else. `overwrite` removes the outputs of all earlier runs first.
    Raises `InputError` if the outputs there were made with other settings or of other pictures, or not by this program.
    """
    folder, recorded = outputs.folder, json.loads(json.dumps(settings))  # tuples become lists, as in the record of an earlier run
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    used = any(_outputs_in(folder))  # before the record is read: whoever writes outputs has written it
    record = _read(folder / RECORD)
    if used and record is None:
        there = ", ".join(kind for kind in FOLDERS if (folder / kind).is_dir())
        raise InputError(f"{folder} has files in {there} and no {RECORD} that says what made them: name another output")
    if overwrite and record is not None:
        write_json(folder / RECORD, {"format": FORMAT, "settings": None})  # a kill must not leave old outputs beside new settings
        _remove_all(folder)
        record = None
    remove_stale(folder)
    if record is not None:
        _check_settings(folder, record, recorded)
        recorded["top"] = recorded.get("top") or record["settings"].get("top")
    known = _sources(folder / SOURCES)
    sources = {picture.name: _source(picture) for picture in pictures}
    for name, source in sources.items():
        if source is not None:
            _remove_others(outputs, name, source, known.get(name))
    todo = [picture for picture in pictures if sources[picture.name] is None or not _is_complete(outputs, picture.name)]
    write_json(folder / RECORD, {"format": FORMAT, "settings": recorded})
    outputs.write_legend()
    _remember(folder / SOURCES, {name: source for name, source in sources.items() if source is not None and source != known.get(name)})
    return todo


def _outputs_in(folder: Path) -> Iterator[Path]:
    for kind, (suffix, _) in FOLDERS.items():
        yield from (path for path in (folder / kind).rglob(f"*{suffix}") if path.is_file())


def _remove_all(folder: Path) -> None:
    for path in [*_outputs_in(folder), folder / SOURCES, folder / BROKEN]:
        path.unlink(missing_ok=True)
    for kind in FOLDERS:
        for place, _, _ in os.walk(folder / kind, topdown=False):
            with suppress(OSError):  # somebody's files are in it
                os.rmdir(place)  # noqa: PTH106


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"format": record.get("format"), "settings": record["settings"]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, AttributeError) as cause:
        raise InputError(
            f"{path} is not the record of a run of src/segment.py ({type(cause).__name__}): name another output, or delete the folder"
        ) from cause


def _check_settings(folder: Path, record: dict[str, Any], now: dict[str, Any]) -> None:
    remedy, before = "name another output, or overwrite=true to do it all anew", record["settings"]
    if record["format"] != FORMAT:
        raise InputError(f"{folder} has outputs of another version of this program, which gave them other names: {remedy}")
    if before is None:
        raise InputError(f"{folder} was about to be done anew (overwrite=true) when the run was killed: say overwrite=true again")
    differ = changed_keys(before, now)
    if None in (before.get("top"), now.get("top")):  # one of the runs does without
        differ = [key for key in differ if key != "top"]
    if "classes.names" in differ:  # these follow from the names
        differ = [key for key in differ if key not in ("classes.prompts", "classes.palette", "model.text_sha256")]
    if differ:
        raise InputError(f"{folder} has outputs of other settings ({changes(differ, before, now)}): {remedy}")


def _sources(path: Path) -> dict[str, Source]:
    """The pictures that a record knows, by their names."""
    known = {}
    try:
        with path.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                with suppress(ValueError, TypeError):  # the last line of a run that was killed: its outputs were never begun
                    name, *source = json.loads(line)
                    known[name] = Source(*source)
    except FileNotFoundError:
        pass
    return known


def _remember(path: Path, sources: Mapping[str, Source]) -> None:
    """Append, in whole lines: others may do so at the same time."""
    if sources:
        with writing(path), path.open("a", encoding="ascii") as file:
            file.write("\n" * (path.stat().st_size > 0) + "".join(f"{json.dumps([n, *s])}\n" for n, s in sources.items()))


def _source(picture: Picture) -> Source | None:
    """None if it is not there."""
    try:
        found = os.stat(picture.path)  # noqa: PTH116  # a million of them
    except OSError:
        return None
    return Source(picture.path, found.st_size, found.st_mtime_ns)


def _remove_others(outputs: Outputs, name: str, now: Source, before: Source | None) -> None:
    """Remove the outputs of this name that are of a picture as it was. Raises `InputError` for those of another picture."""
    if before is not None and before.is_now(now):
        return
    old = [path for path in (outputs.path(kind, name) for kind in FOLDERS) if os.path.isfile(path)]  # noqa: PTH113
    if old and before is not None and before.path != now.path:
        raise InputError(f"{old[0]} is of {before.path}, not of {now.path}: name another output")
    for path in old:
        path.unlink()


def _is_complete(outputs: Outputs, name: str) -> bool:
    return all(os.path.isfile(outputs.path(kind, name)) for kind in outputs.kinds)  # noqa: PTH113  # False where a name is too long
