"""Obtaining a release: what is checked first, what is deleted and what a second run skips."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import raw_releases as raw

from maskclip import InputError
from maskclip.files import HOST
from maskclip.prepare.conversion import UNPACKED
from maskclip.prepare.download import Archive
from maskclip.prepare.release import Release, obtain

FILES = {f"set/{i}.png": raw.grey_png(raw.blocks([i, 3])) for i in range(4)}


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder with an archive, which its file URL downloads."""
    folder = tmp_path / "served"
    folder.mkdir()
    raw.write_zip(folder / "set.zip", FILES)
    return folder


def release(served: Path, *names: str, checksum: bool = False, size: int | None = None, **options: Any) -> Release:
    archives = []
    for name in names or ("set.zip",):
        path = served / name
        published = f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}" if checksum else None
        archives.append(Archive(path.as_uri(), name, size, published))
    return Release("The set", "http://page", "none", archives, **{"folders": ("set",), **options})


def downloads(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "downloads").iterdir())


def cut(path: Path) -> bytes:
    """Truncate an archive, and return its original content."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    return whole


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "set.tar"])
def test_a_truncated_download_is_discarded(served: Path, tmp_path: Path, name: str) -> None:
    if name != "set.zip":
        raw.write_tar(served / name, FILES, "w:gz" if name.endswith("gz") else "w")
    whole, root = cut(served / name), tmp_path / "root"
    with pytest.raises(InputError, match=r"is broken .*; it was downloaded from file:.* and has been deleted: run again .*--from DIR"):
        obtain([release(served, name)], root, None)
    assert downloads(root) == []
    (served / name).write_bytes(whole)
    obtain([release(served, name)], root, None)
    assert len(list((root / "set").iterdir())) == 4


def test_a_download_of_another_release_is_discarded(served: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no files of The set.*has been deleted: run again"):
        obtain([release(served, needed=lambda name: name.endswith(".jpg"))], tmp_path, None)
    assert downloads(tmp_path) == []


def test_a_broken_archive_of_the_user_is_kept(served: Path, tmp_path: Path) -> None:
    cut(served / "set.zip")
    half = (served / "set.zip").read_bytes()
    with pytest.raises(InputError, match=r"set\.zip is broken .*: get it again$"):
        obtain([release(served)], tmp_path / "root", served)
    assert (served / "set.zip").read_bytes() == half
    (tmp_path / "root" / "downloads").mkdir(parents=True)
    (tmp_path / "root" / "downloads" / "set.zip").write_bytes(half)
    with pytest.raises(InputError, match=r"set\.zip is broken .*: get it again; delete .*set\.zip and run again$"):
        obtain([release(served)], tmp_path / "root", None)
    assert (tmp_path / "root" / "downloads" / "set.zip").read_bytes() == half


def test_all_archives_must_exist_before_the_first_is_extracted(served: Path, tmp_path: Path) -> None:
    needed = Release("The set", "http://page", "none", [Archive("http://x", "set.zip"), Archive("http://x", "more.zip")])
    with pytest.raises(InputError, match=r"no more\.zip in .* \(--from\)"):
        obtain([needed], tmp_path / "root", served)
    assert not (tmp_path / "root").exists()


def test_the_published_one_of_several_candidates_is_used(served: Path, tmp_path: Path) -> None:
    needed = release(served, checksum=True)
    (served / "another").mkdir()
    raw.write_zip(served / "another" / "set.zip", {"set/x.png": b""})
    obtain([needed], tmp_path / "root", served)
    assert len(list((tmp_path / "root" / "set").iterdir())) == 4


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_disk_space_is_checked_before_the_first_byte(served: Path, tmp_path: Path, disk: Callable[[int], None]) -> None:
    size, root = (served / "set.zip").stat().st_size, tmp_path / "a" / "b"
    releases = [release(served, size=size, unpacked_bytes=2 * 10**9), release(served, selection="more", unpacked_bytes=10**9)]
    disk(3 * 10**9 + size - 1)
    with pytest.raises(InputError, match=r"has 3.0 GB free, and The set needs about 3.0 GB \(0.0 to download, 3.0 extracted .*--root"):
        obtain(releases, root, None)
    assert not (root / "downloads").exists()
    (root / "set").mkdir(parents=True)
    (root / "set" / "extracted").write_bytes(b"1")  # by an earlier run
    obtain(releases, root, None)
    disk(0)
    obtain(releases, root, None)  # everything is extracted


def test_archives_of_the_user_need_no_room_for_a_download(served: Path, tmp_path: Path, disk: Callable[[int], None]) -> None:
    size = (served / "set.zip").stat().st_size
    disk(10**9)
    obtain([release(served, size=size, unpacked_bytes=10**9)], tmp_path / "root", served)


def test_unfinished_downloads_and_files_of_killed_runs_are_removed(served: Path, tmp_path: Path) -> None:
    stale = [tmp_path / folder / f".{HOST}-{os.getpid()}-00.partial" for folder in (UNPACKED, "set")]
    for path in (*stale, *(tmp_path / "downloads" / name for name in ("set.zip.part", "other.zip.part"))):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    obtain([release(served)], tmp_path, served)
    assert downloads(tmp_path) == ["other.zip.part"]  # of another script
    assert not any(path.exists() for path in stale)


def test_coco_s_maps_come_before_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_coco(tmp_path)
    (tmp_path / "train2017.zip").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"train2017\.zip is broken"):
        raw.prepare(monkeypatch, "coco", tmp_path / "data", f"--from={tmp_path}")
    maps = "stuffthingmaps_trainval2017.zip"
    assert sorted(path.name for path in (tmp_path / "data" / "coco" / UNPACKED).iterdir()) == [f"{maps}.train2017", f"{maps}.val2017"]
    raw.write_coco(tmp_path)
    (tmp_path / maps).unlink()  # no longer needed
    raw.prepare(monkeypatch, "coco", tmp_path / "data", f"--from={tmp_path}")


def run_ade(monkeypatch: pytest.MonkeyPatch, served: Path, root: Path, *arguments: str, count: int = 2) -> None:
    script = importlib.import_module("prepare_ade20k")
    archive = Archive((served / "ADEChallengeData2016.zip").as_uri(), "ADEChallengeData2016.zip")
    changed = {"archives": [archive], "image_counts": {"training": 2, "validation": count}, "unpacked_bytes": 0}
    monkeypatch.setattr(script, "ADE", Release(**{**vars(script.ADE), **changed}))
    monkeypatch.setattr(sys, "argv", ["prepare_ade20k.py", f"--root={root}", "--workers=1", *arguments])
    script.main()


def test_archives_are_deleted_once_everything_is_checked(served: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    raw.write_ade(served)
    root = tmp_path / "root"
    with pytest.raises(InputError, match=r"validation has 2 images instead of 3.*--no-verify"):
        run_ade(monkeypatch, served, root, "--delete-archives", count=3)
    assert downloads(root) == ["ADEChallengeData2016.zip", "ADEChallengeData2016.zip.url"]
    run_ade(monkeypatch, served, root)
    assert "--delete-archives deletes them" in capsys.readouterr().out
    run_ade(monkeypatch, served, root, "--delete-archives")
    assert downloads(root) == []
    (served / "ADEChallengeData2016.zip").unlink()
    run_ade(monkeypatch, served, root, "--delete-archives")  # a prepared data set needs no archive
    assert "validation: 2 images, as published" in capsys.readouterr().out


def test_archives_of_the_user_are_never_deleted(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_ade(served)
    run_ade(monkeypatch, served, tmp_path / "one", f"--from={served}", "--delete-archives")
    assert (served / "ADEChallengeData2016.zip").is_file()
    (tmp_path / "two" / "downloads").mkdir(parents=True)
    shutil.copy(served / "ADEChallengeData2016.zip", tmp_path / "two" / "downloads")
    run_ade(monkeypatch, served, tmp_path / "two", "--delete-archives")
    assert downloads(tmp_path / "two") == ["ADEChallengeData2016.zip"]


def test_images_of_voc_that_are_gone_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    raw.write_voc(tmp_path)
    raw.prepare(monkeypatch, "voc", tmp_path / "data", f"--from={tmp_path}")
    (tmp_path / "data" / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{raw.VOC_VAL[0]}.jpg").unlink()
    capsys.readouterr()
    raw.prepare(monkeypatch, "voc", tmp_path / "data")
    assert "val: 1 images, 1449 published" in capsys.readouterr().out
