"""How a run goes on where another one stopped, and what it must have in common with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskclip.errors import InputError
from maskclip.files import remove_stale, write_json
from maskclip.segmenting.inputs import Picture
from maskclip.segmenting.outputs import FOLDERS, Outputs

RECORD = "segment.json"


def prepare(outputs: Outputs, pictures: Sequence[Picture], settings: Mapping[str, Any], overwrite: bool = False) -> list[Picture]:
    """Make the folder of outputs ready; returns those `pictures` that are still to be done, in their order.

    Removes what killed runs left half-written, writes the legend and segment.json: the `settings` that outputs depend on,
    and the folders that pictures came from. `overwrite` removes the outputs of all earlier runs first.
    Raises `InputError` if the outputs there were made with other settings or of other pictures, or not by this program.
    """
    folder, told = outputs.folder, json.loads(json.dumps(settings))  # as a record has them: tuples are lists there
    folder.mkdir(parents=True, exist_ok=True)
    used = any(_outputs_in(folder))  # before the record is read: whoever writes outputs has written it
    record = _read(folder / RECORD)
    if used and record is None:
        raise InputError(
            f"{folder} has files in {', '.join(_folders(folder))} and no {RECORD} that says what made them: name another output"
        )
    if overwrite and record is not None:
        write_json(folder / RECORD, record | {"settings": None})  # a kill must not leave old outputs beside new settings
        for path in _outputs_in(folder):
            path.unlink()
        record = None
    remove_stale(folder)
    roots = set(record["roots"]) if record else set()
    if record is not None:
        _check_settings(folder, record["settings"], told)
        told["top"] = told.get("top") or record["settings"].get("top")
    todo = [picture for picture in pictures if not _is_done(outputs, picture, roots)]
    roots |= {picture.root for picture in pictures}
    write_json(folder / RECORD, {"settings": told, "roots": sorted(roots)})
    outputs.write_legend()
    return todo


def _folders(folder: Path) -> list[str]:
    return [kind for kind in FOLDERS if (folder / kind).is_dir()]


def _outputs_in(folder: Path) -> Iterator[Path]:
    for kind in _folders(folder):
        yield from (path for path in (folder / kind).rglob(f"*{FOLDERS[kind][0]}") if path.is_file())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": record["settings"], "roots": list(record["roots"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as cause:
        raise InputError(f"{path} is not the record of a run of src/segment.py ({type(cause).__name__}): name another output") from cause


def _check_settings(folder: Path, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    remedy = "name another output, or overwrite=true to do it all anew"
    if before is None:
        raise InputError(f"{folder} was about to be done anew (overwrite=true) when the run was killed: say overwrite=true again")
    differ = [key for key in before | now if before.get(key) != now.get(key)]
    if None in (before.get("top"), now.get("top")):  # one of the runs does without
        differ = [key for key in differ if key != "top"]
    if differ:
        said = "; ".join(f"{key} was {_brief(before.get(key))}, is {_brief(now.get(key))}" for key in differ)
        raise InputError(f"{folder} has outputs of other settings ({said}): {remedy}")


def _brief(value: Any) -> str:
    text = "null" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_done(outputs: Outputs, picture: Picture, roots: set[str]) -> bool:
    """Whether all outputs of a picture are there, newer than it. Raises `InputError` if they may be of another picture."""
    try:
        changed = os.stat(picture.path).st_mtime_ns  # noqa: PTH116  # a million of them
    except OSError:
        return False
    for kind in outputs.kinds:
        path = outputs.path(kind, picture.name)
        try:
            written = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if picture.root not in roots:
            raise InputError(
                f"{path} is not of {picture.path} but of a picture in {', '.join(sorted(roots))}: name another output "
                f"(if these are the same pictures in a new place, say so under roots in {outputs.folder / RECORD})"
            )
        if written < changed:
            return False
    return True
