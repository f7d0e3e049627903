"""Writing that survives kills: what a killed process left is removed, what others are writing is not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskclip import InputError
from maskclip.files import HOST, remove_stale, replacing, write_text, writing


def test_replacing_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_stale_files_are_those_of_processes_that_are_gone(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    alive = os.getppid()
    old = time.time() - 7200
    files = {
        f".a.png.{HOST}-{ended.pid}.partial": None,
        f".b.png.{HOST}-{os.getpid()}.partial": None,  # of the process that had this number before
        f".c.png.{HOST}-{alive}.partial": old,
        f".d.png.00000000-{ended.pid}.partial": old,  # another machine's
    }
    kept = {f".e.png.{HOST}-{alive}.partial": None, f".f.png.00000000-{ended.pid}.partial": None, ".g.png.12.part": old, "h.partial": old}
    (tmp_path / "sub").mkdir()
    for name, changed in (files | kept).items():
        (tmp_path / "sub" / name).write_text("half")
        if changed:
            os.utime(tmp_path / "sub" / name, (changed, changed))
    remove_stale(tmp_path)
    assert {path.name for path in (tmp_path / "sub").iterdir()} == set(kept)


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "the disk is full, at a.png"), (errno.EACCES, "cannot write a.png: Permission")]
)
def test_what_goes_wrong_in_writing_is_a_sentence(number: int, said: str) -> None:
    with pytest.raises(InputError, match=said), writing(Path("a.png")):
        raise OSError(number, os.strerror(number))
