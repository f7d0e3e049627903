"""Archives that are damaged, incomplete or malicious."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.full_disk import no_room

from maskclip import InputError
from maskclip.files import remove_stale
from maskclip.prepare.unpack import BrokenArchiveError, unpack

BODY = random.Random(0).randbytes(20_000)
FILES = {"set/a.png": BODY[:5000], "set/deep/ä b.png": BODY[5000:], "set/empty": b"", "list.txt": b"a\nb\n"}
KINDS = ["zip", "tar", "tar.gz", "tgz"]


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """An archive with `files` and an entry for a folder; its suffix selects the format."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("set/", b"")
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        add(archive, "./set", type=tarfile.DIRTYPE)
        for name, content in files.items():
            add(archive, name, content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(content))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, including hidden ones."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_unpack(tmp_path: Path, kind: str) -> None:
    archive, folder = packed(tmp_path / f"set.{kind}", FILES), tmp_path / "to"
    assert unpack(archive, folder) == 4
    assert contents(folder) == FILES
    (folder / "set" / "a.png").write_bytes(b"half")
    assert unpack(archive, folder) == 4  # again after an interruption
    assert contents(folder) == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_only_needed_files_are_extracted(tmp_path: Path, kind: str) -> None:
    archive = packed(tmp_path / f"set.{kind}", {f"./{name}": content for name, content in FILES.items()})
    assert unpack(archive, tmp_path / "to", lambda name: name.startswith("set/") and name.endswith(".png")) == 2
    assert contents(tmp_path / "to") == {name: FILES[name] for name in ("set/a.png", "set/deep/ä b.png")}
    assert unpack(archive, tmp_path / "none", lambda name: False) == 0
    assert not (tmp_path / "none").exists()


def test_a_tar_that_ends_with_a_zip(tmp_path: Path) -> None:
    inner = packed(tmp_path / "inner.zip", {"x": b"inner"}).read_bytes()
    with tarfile.open(tmp_path / "outer.zip", "w", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "inner.zip", inner)
    assert unpack(tmp_path / "outer.zip", tmp_path / "to") == 1
    assert contents(tmp_path / "to") == {"inner.zip": inner}


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../evil", "set/../../evil", "{absolute}/evil"])
def test_files_outside_the_folder_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    archive = packed(tmp_path / f"set.{kind}", {"good": b"good", name.format(absolute=tmp_path): b"evil"})
    with pytest.raises(InputError, match=rf"{archive} has a file that would land outside .*to: "):
        unpack(archive, tmp_path / "to")
    assert unpack(archive, tmp_path / "to", lambda name: name == "good") == 1
    assert contents(tmp_path) == {f"set.{kind}": archive.read_bytes(), "to/good": b"good"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        add(archive, "link", type=kind, linkname="..")
        add(archive, "good", b"good")
    with pytest.raises(InputError, match=r"set\.tar has a link or device, link, and only plain files"):
        unpack(tmp_path / "set.tar", tmp_path / "to")
    assert unpack(tmp_path / "set.tar", tmp_path / "to", lambda name: name != "link") == 1


def test_a_full_disk_and_a_killed_process_leave_no_incomplete_file(tmp_path: Path) -> None:
    archive, folder = packed(tmp_path / "set.zip", FILES), tmp_path / "to"
    with no_room(), pytest.raises(InputError, match=r"cannot write .*ä b\.png: File too large"):
        unpack(archive, folder)
    assert contents(folder) == {"set/a.png": FILES["set/a.png"]}
    code = f"""
import os, shutil
from pathlib import Path
from maskclip.prepare.unpack import unpack
shutil.copyfileobj = lambda source, target, size: (target.write(b"half"), target.flush(), os._exit(9))
unpack(Path({str(archive)!r}), Path({str(folder)!r}))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment).returncode == 9
    assert b"half" in contents(folder).values()
    remove_stale(folder)
    assert contents(folder) == {"set/a.png": FILES["set/a.png"]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["end", "half", "page", "empty", "bit"])
def test_damaged_archives(tmp_path: Path, kind: str, damage: str) -> None:
    archive = packed(tmp_path / f"set.{kind}", FILES)
    whole = bytearray(archive.read_bytes())
    if damage == "bit":  # the files of a plain tar have no checksum, only its headers
        position = whole.index(b"list.txt") if kind == "tar" else 1000
        whole[position] ^= 1
    end = bytes(whole).rindex(b"a\nb\n") + 512 if kind == "tar" else len(whole) - 4  # between the last file and the end mark
    archive.write_bytes({"end": whole[:end], "half": whole[:5000], "page": b"<html>", "empty": b"", "bit": whole}[damage])
    with pytest.raises(BrokenArchiveError, match=rf"^the archive {archive} is broken \(.+\): get it again$"):
        unpack(archive, tmp_path / "to")


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the archive .*none\.zip: No such file"):
        unpack(tmp_path / "none.zip", tmp_path)
    archive = packed(tmp_path / "set.zip", {"a": b"a"})
    content = bytearray(archive.read_bytes())
    for magic, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        content[content.rindex(magic) + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(BrokenArchiveError, match=r"set\.zip is broken .*password"):
        unpack(archive, tmp_path / "to")
