"""Atomic writing: a killed process leaves no damaged file, and its partial files are removed later."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from support.full_disk import no_room
from support.students import small_student

from maskclip import InputError, Vocabulary
from maskclip.clip.text_embeddings import save_text
from maskclip.clip.tiny import save_weights
from maskclip.files import HOST, discard_partials, quoted, remove_stale, replacing, write_bytes, write_json, write_text, writing
from maskclip.images.writing import write_atomically
from maskclip.segmenting.outputs import write_arrays
from maskclip.tasks.callbacks import AtomicCheckpoints


def test_replacing_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_stale_files_are_those_of_ended_processes(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    alive = os.getppid()
    old = time.time() - 7200
    files = {
        f".a.png.{HOST}-{ended.pid}.partial": None,
        f".b.png.{HOST}-{os.getpid()}.partial": None,  # of an earlier process with the same id
        f".c.png.{HOST}-{alive}.partial": old,
        f".d.png.00000000-{ended.pid}.partial": old,  # of another machine
        f".{HOST}-{ended.pid}-0123abcd.partial": None,
    }
    kept = {f".e.png.{HOST}-{alive}.partial": None, f".f.png.00000000-{ended.pid}.partial": None, ".g.png.12.part": old, "h.partial": old}
    (tmp_path / "sub").mkdir()
    for name, changed in (files | kept).items():
        (tmp_path / "sub" / name).write_text("half")
        if changed:
            os.utime(tmp_path / "sub" / name, (changed, changed))
    with replacing(tmp_path / "sub" / "i.png") as partial:
        remove_stale(tmp_path)
        assert {path.name for path in (tmp_path / "sub").iterdir()} == {*kept, partial.name}


def test_files_that_are_created_during_the_search_for_stale_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads of this process start to write after `remove_stale` has started."""
    real, path = os.walk, tmp_path / "a.txt"
    with ExitStack() as writing_later:

        def walk(folder: Path) -> Iterator[Any]:
            writing_later.enter_context(replacing(path)).write_text("new")
            yield from real(folder)

        monkeypatch.setattr(os, "walk", walk)
        remove_stale(tmp_path)
    assert path.read_text() == "new"


def test_stale_files_that_cannot_be_removed_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of another user, in a shared cache with the sticky bit."""
    paths = [tmp_path / f".00000000-1-{number}.partial" for number in range(3)]
    for path in paths:
        path.touch()
        os.utime(path, (0, 0))
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == paths[1]:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [paths[1]]


def test_writing_to_disks_without_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some mounts (FAT, CIFS, FUSE) refuse every chmod."""

    def chmod(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(Path, "chmod", chmod)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_writing_a_file_with_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + "a.txt")  # 255 bytes
    write_text(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_threads_write_the_same_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda content: write_bytes(tmp_path / "a", content), contents * 5))
    assert (tmp_path / "a").read_bytes() in contents and len(list(tmp_path.iterdir())) == 1


def test_partials_can_be_discarded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*a: No such file"), replacing(tmp_path / "a") as partial:
        partial.write_text("half")
        discard_partials()
        assert list(tmp_path.iterdir()) == []


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "x" * 100_000),
    "json": lambda path: write_json(path, ["x" * 100_000]),
    "image": lambda path: write_atomically(Image.effect_noise((300, 300), 99), path.with_suffix(".png")),
    "arrays": lambda path: write_arrays(path, np.savez, a=np.zeros(100_000)),
    "checkpoint": lambda path: AtomicCheckpoints().save_checkpoint({"a": torch.zeros(100_000)}, path),
    "text embeddings": lambda path: save_text(path, torch.zeros(2, 50_000), Vocabulary(["cat", "dog"]), {}),
    "student": lambda path: small_student().save(path),
    "tiny CLIP": lambda path: save_weights({"token_embedding.weight": torch.zeros(500, 500)}, torch.arange(500), path, {}),
}
"""All writers of files; each writes more than 8 kB."""


@pytest.mark.parametrize("name", WRITERS)
def test_modes_follow_the_umask(tmp_path: Path, name: str) -> None:
    before = os.umask(0o027)
    try:
        WRITERS[name](tmp_path / "a")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()} == {0o640}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_raises_an_input_error_in_every_writer(tmp_path: Path, name: str) -> None:
    with no_room(), pytest.raises(InputError, match=rf"cannot write {tmp_path}/a.*: File too large"):
        WRITERS[name](tmp_path / "a")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_errors_of_encoders_propagate_unchanged(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too wide") as caught, replacing(tmp_path / "a"):
        raise OSError("too wide")
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    "path",
    ["runs/a-1.ckpt", "/my photos [2]/{a}", "it's", 'a"b', "a\\", 'a\\"b', "123", "ü/a,b", "a=b", "*.jpg", "~/a", "a #b", "$HOME"],
)
def test_paths_in_messages_can_be_pasted(path: str) -> None:
    """The shell and Hydra's parser return the same path."""
    (word,) = shlex.split(f"model.checkpoint={quoted(Path(path))}")
    override = OverridesParser.create().parse_override(word)
    assert (override.key_or_group, override.value()) == ("model.checkpoint", path)
    assert quoted(Path("runs/a-1")) == "runs/a-1"


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full, at a.png"), (errno.EACCES, "cannot write a.png: Permission")]
)
def test_messages_of_failed_writes(number: int, message: str) -> None:
    with pytest.raises(InputError, match=message), writing(Path("a.png")):
        raise OSError(number, os.strerror(number))


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat")
    with pytest.raises(InputError, match=r"cannot write .*words\.txt/x\.pt: .*words\.txt is a file, not a folder"):
        write_text(tmp_path / "words.txt" / "x.pt", "")
    assert (tmp_path / "words.txt").read_text() == "cat"
