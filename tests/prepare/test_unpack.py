"""Archives that are broken, cut short or mean harm."""

from __future__ import annotations

import errno
import io
import random
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.full_disk import full_disk, interrupted_after

from maskclip import InputError
from maskclip.files import remove_stale
from maskclip.prepare import unpack as unpack_module
from maskclip.prepare.unpack import HEAD, BrokenArchiveError, is_archive, unpack

BODY = random.Random(0).randbytes(10_000)
OTHER = random.Random(1).randbytes(10_000)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack_module, "BLOCK", 1000)


FILES = {"set/a.png": BODY[:5000], "set/deep/ä b.png": BODY[5000:], "set/empty": b"", "list.txt": b"a\nb\n"}
KINDS = ["zip", "tar", "tar.gz", "tgz"]


def packed(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    """An archive with `files`, of the kind that its name says, with entries for folders too."""
    pairs = list(files.items()) if isinstance(files, dict) else files
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("set/", b"")
            for name, content in pairs:
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        add(archive, "./set", type=tarfile.DIRTYPE)
        for name, content in pairs:
            add(archive, name, content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(content))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def count_extracting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    real = unpack_module._extract
    monkeypatch.setattr(unpack_module, "_extract", lambda entry, *rest: calls.append(entry.name) or real(entry, *rest))
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_unpack(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, folder = packed(tmp_path / f"set.{kind}", FILES), tmp_path / "to"
    calls = count_extracting(monkeypatch)
    assert unpack(archive, folder) == 4
    assert contents(folder) == FILES
    assert sorted(calls) == sorted(FILES)
    (folder / "list.txt").write_bytes(b"a")
    calls.clear()
    assert unpack(archive, folder) == 4
    assert calls == ["list.txt"]
    assert contents(folder) == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_unpack_what_is_wanted(tmp_path: Path, kind: str) -> None:
    archive = packed(tmp_path / f"set.{kind}", {f"./{name}": content for name, content in FILES.items()})
    assert unpack(archive, tmp_path / "to", lambda name: name.startswith("set/") and name.endswith(".png")) == 2
    assert contents(tmp_path / "to") == {name: FILES[name] for name in ("set/a.png", "set/deep/ä b.png")}
    assert unpack(archive, tmp_path / "none", lambda name: False) == 0
    assert not (tmp_path / "none").exists()


def test_the_first_bytes_tell_the_kind(tmp_path: Path) -> None:
    inner = packed(tmp_path / "inner.zip", {"x": b"inner"})
    with tarfile.open(tmp_path / "outer.zip", "w", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "inner.zip", inner.read_bytes())
    assert unpack(tmp_path / "outer.zip", tmp_path / "to") == 1
    assert contents(tmp_path / "to") == {"inner.zip": inner.read_bytes()}


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_of_a_file_that_is_there_twice_the_last_counts(tmp_path: Path, kind: str) -> None:
    archive = packed(tmp_path / f"set.{kind}", [("a", b"old"), ("a", b"new")])
    assert unpack(archive, tmp_path / "to") == 1
    assert contents(tmp_path / "to") == {"a": b"new"}


def test_names_from_windows(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        add(archive, "set\\a.png", b"a")
    assert unpack(tmp_path / "set.tar", tmp_path / "to") == 1
    assert contents(tmp_path / "to") == {"set/a.png": b"a"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../evil", "set/../../evil", "/", "..\\evil", "C:/evil", "C:evil", "set/.."])
def test_files_that_would_land_outside(tmp_path: Path, kind: str, name: str) -> None:
    archive = packed(tmp_path / f"set.{kind}", {"good": b"good", f"{tmp_path}/evil" if name == "/" else name: b"evil"})
    with pytest.raises(InputError, match=rf"{archive} holds a file that would land outside .*to: "):
        unpack(archive, tmp_path / "to")
    assert unpack(archive, tmp_path / "to", lambda name: name == "good") == 1
    assert contents(tmp_path) == {f"set.{kind}": archive.read_bytes(), "to/good": b"good"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        add(archive, "way", type=kind, linkname="..")
        add(archive, "good", b"good")
    with pytest.raises(InputError, match=r"set\.tar holds a link or device, way, and only plain files"):
        unpack(tmp_path / "set.tar", tmp_path / "to")
    assert unpack(tmp_path / "set.tar", tmp_path / "to", lambda name: name != "way") == 1
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "to").iterdir()] == [("good", b"good")]


def test_links_in_a_zip(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("way")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(link, "..")
        archive.writestr("good", b"good")
    with pytest.raises(InputError, match=r"set\.zip holds a link or device, way, "):
        unpack(tmp_path / "set.zip", tmp_path / "to")
    assert unpack(tmp_path / "set.zip", tmp_path / "to", lambda name: name != "way") == 1
    assert contents(tmp_path / "to") == {"good": b"good"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_leaves_no_half_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, folder = packed(tmp_path / f"set.{kind}", FILES), tmp_path / "to"
    interrupted = interrupted_after(7, unpack_module.write_block)  # in the middle of the second file
    with monkeypatch.context() as patch:
        patch.setattr(unpack_module, "write_block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, folder)
    assert contents(folder) == {"set/a.png": FILES["set/a.png"]}
    calls = count_extracting(monkeypatch)
    assert unpack(archive, folder) == 4
    assert calls == ["set/deep/ä b.png", "set/empty", "list.txt"]
    assert contents(folder) == FILES


def test_a_disk_that_fills_up_in_unpacking(tmp_path: Path) -> None:
    archive, folder = packed(tmp_path / "set.zip", {"a": b"a", "b": BODY}), tmp_path / "to"
    with full_disk(), pytest.raises(InputError, match=r"the disk is full, at .*b: free some space and run again"):
        unpack(archive, folder)
    assert contents(folder) == {"a": b"a"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "half", "page", "empty"])
def test_a_broken_archive(tmp_path: Path, kind: str, damage: str) -> None:
    archive = packed(tmp_path / f"set.{kind}", FILES)
    whole = archive.read_bytes()
    end = whole.rindex(b"a\nb\n") + 512 if kind == "tar" else len(whole) - 4  # a tar's padding is no loss
    archive.write_bytes(
        {"cut": whole[: end - end % 512 if kind == "tar" else end], "half": whole[:5000]}.get(damage, b"<html>" * (damage == "page"))
    )
    sentence = rf"the archive {archive} is broken \(.+\): get it again"
    with pytest.raises(BrokenArchiveError, match=sentence):
        unpack(archive, tmp_path / "to")
    assert contents(tmp_path / "to") == {}


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_spoilt_bytes_are_found(tmp_path: Path, kind: str) -> None:
    archive = packed(tmp_path / f"set.{kind}", FILES)
    spoilt = bytearray(archive.read_bytes())
    spoilt[1000] ^= 1  # random bytes are stored as they are: only a checksum can tell
    archive.write_bytes(spoilt)
    with pytest.raises(InputError, match=rf"the archive {archive} is broken"):
        unpack(archive, tmp_path / "to")
    assert contents(tmp_path / "to") == {}


def test_a_spoilt_header_in_a_tar_is_not_its_end(tmp_path: Path) -> None:
    archive = packed(tmp_path / "set.tar", FILES)
    archive.write_bytes(archive.read_bytes().replace(b"list.txt", b"lost.txt"))
    with pytest.raises(InputError, match="is broken"):
        unpack(archive, tmp_path / "to")
    assert contents(tmp_path / "to") == {}


def test_a_locked_zip(tmp_path: Path) -> None:
    archive = packed(tmp_path / "set.zip", {"a": b"a"})
    content = bytearray(archive.read_bytes())
    for magic, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        content[content.rindex(magic) + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"set\.zip is broken .*password"):
        unpack(archive, tmp_path / "to")


def test_a_disk_that_cannot_be_read_is_no_broken_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(tmp_path / "set.zip", FILES)

    def failing(*_: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(zipfile.ZipFile, "open", failing)
    with pytest.raises(InputError, match=r"cannot read the archive .*set\.zip: Input/output error; check the disk") as caught:
        unpack(archive, tmp_path / "to")
    assert not isinstance(caught.value, BrokenArchiveError)


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    archive = packed(tmp_path / "set.zip", FILES)
    code = f"""
import os
from pathlib import Path
from maskclip.prepare import unpack
unpack.write_block = lambda *_: os._exit(9)
unpack.unpack(Path({str(archive)!r}), Path({str(tmp_path / "to")!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 9
    assert len(contents(tmp_path / "to")) == 1
    remove_stale(tmp_path / "to")
    assert contents(tmp_path / "to") == {}


@pytest.mark.parametrize("kind", KINDS)
def test_archives_are_recognised_by_their_beginning(tmp_path: Path, kind: str) -> None:
    head = packed(tmp_path / f"set.{kind}", FILES).read_bytes()[:HEAD]
    assert is_archive(head)
    assert not is_archive(b"<!doctype html>" + head[15:])


def test_a_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot open the archive .*none\.zip: No such file"):
        unpack(tmp_path / "none.zip", tmp_path)


def test_an_error_of_the_caller_is_not_the_archive_s(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        unpack(packed(tmp_path / "set.zip", FILES), tmp_path / "to", lambda name: bool(1 / 0))
