"""From archives to a finished release: what is checked first, what is deleted, and what a second run leaves out."""

from __future__ import annotations

import argparse
import errno
import hashlib
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import raw_releases as raw

from maskclip import InputError
from maskclip.prepare import release as release_module
from maskclip.prepare.download import Archive
from maskclip.prepare.release import UNPACKED, Release, finish, obtain, pixels_per_value

FILES = {f"set/{i}.png": raw.grey_png(raw.blocks([i, 3])) for i in range(4)}


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder whose files have file URLs: what is there can be downloaded."""
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
    return Release("The set", "http://page", "none", archives, **{"images": {}, "folders": ("set",), **options})


def downloads(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "downloads").iterdir())


def cut(path: Path) -> bytes:
    """Cut the end of an archive off; returns the whole."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    return whole


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "set.tar"])
def test_a_truncated_download_is_discarded(served: Path, tmp_path: Path, name: str) -> None:
    if name != "set.zip":
        raw.write_tar(served / name, FILES, "w:gz" if name.endswith("gz") else "w")
    whole, root = cut(served / name), tmp_path / "root"
    with pytest.raises(InputError, match=r"is broken .*; it came from file:.* and was deleted: run again .*--from DIR"):
        obtain([release(served, name)], root, None)
    assert downloads(root) == []
    (served / name).write_bytes(whole)
    obtain([release(served, name)], root, None)
    assert len(list((root / "set").iterdir())) == 4


def test_a_download_of_another_release_is_discarded(served: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds nothing that The set should.*was deleted: run again"):
        obtain([release(served, wanted=lambda name: name.endswith(".jpg"))], tmp_path, None)
    assert downloads(tmp_path) == []


def test_what_a_person_put_there_is_kept(served: Path, tmp_path: Path) -> None:
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


def test_a_download_that_spoils_on_the_disk_is_discarded(served: Path, tmp_path: Path) -> None:
    wanted, root = release(served, checksum=True), tmp_path / "root"
    obtain([wanted], root, None)
    (root / UNPACKED / "set.zip").unlink()
    path = root / "downloads" / "set.zip"
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"PK\1\2", b"XX\1\2"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # its size and date are those of the file that was checked
    with pytest.raises(InputError, match="was deleted: run again"):
        obtain([wanted], root, None)
    obtain([wanted], root, None)


def test_a_disk_that_cannot_be_read_costs_no_download(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("zipfile.ZipFile.open", failing)
        with pytest.raises(InputError, match="Input/output error"):
            obtain([release(served)], tmp_path, None)
    assert downloads(tmp_path) == ["set.zip", "set.zip.ok"]


def test_all_archives_must_be_there_before_the_first_is_unpacked(served: Path, tmp_path: Path) -> None:
    wanted = Release("The set", "http://page", "none", [Archive("http://x", "set.zip"), Archive("http://x", "more.zip")], {})
    with pytest.raises(InputError, match=r"no more\.zip in .* \(--from\)"):
        obtain([wanted], tmp_path / "root", served)
    assert not (tmp_path / "root").exists()


def test_of_several_files_with_the_name_of_an_archive_the_published_one_is_taken(served: Path, tmp_path: Path) -> None:
    wanted = release(served, checksum=True)
    (served / "another").mkdir()
    raw.write_zip(served / "another" / "set.zip", {"set/x.png": b""})
    obtain([wanted], tmp_path / "root", served)
    assert len(list((tmp_path / "root" / "set").iterdir())) == 4


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_the_room_for_everything_is_checked_before_the_first_byte(
    served: Path, tmp_path: Path, disk: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (served / "set.zip").stat().st_size
    releases, root = (
        [release(served, size=size, unpacked=2 * 10**9), release(served, selection="more", unpacked=10**9)],
        tmp_path / "a" / "b",
    )
    disk(3 * 10**9 + size - 1)
    with pytest.raises(InputError, match=r"has 3.0 GB free, and The set needs about 3.0 GB \(0.0 to download, 3.0 unpacked .*--root"):
        obtain(releases, root, None)
    assert not (root / "downloads").exists()
    monkeypatch.setattr(release_module, "_bytes_in", lambda *_: 1)  # of an earlier run
    obtain(releases, root, None)
    disk(0)
    obtain(releases, root, None)  # nothing is left to do


def test_archives_of_one_s_own_need_no_room_for_a_download(served: Path, tmp_path: Path, disk: Callable[[int], None]) -> None:
    size = (served / "set.zip").stat().st_size
    disk(10**9)
    obtain([release(served, size=size, unpacked=10**9)], tmp_path / "root", served)


def test_unfinished_downloads_and_files_of_killed_runs_are_removed(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned: list[Path] = []
    monkeypatch.setattr(release_module, "remove_stale", cleaned.append)
    (tmp_path / "downloads").mkdir()
    for name in ("set.zip.part", "set.zip.part.json", "other.zip.part"):
        (tmp_path / "downloads" / name).write_bytes(b"half")
    obtain([release(served)], tmp_path, served)
    assert downloads(tmp_path) == ["other.zip.part"]  # of another script
    assert sorted(cleaned) == [tmp_path / UNPACKED, tmp_path / "set"]


def test_coco_s_maps_come_before_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_coco(tmp_path)
    unpacked: list[str] = []
    real = release_module.unpack
    monkeypatch.setattr(release_module, "unpack", lambda path, *rest: unpacked.append(path.name) or real(path, *rest))
    raw.prepare(monkeypatch, "coco", tmp_path / "data", f"--from={tmp_path}")
    maps = "stuffthingmaps_trainval2017.zip"
    assert unpacked == [maps, maps, "train2017.zip", "val2017.zip"]
    (tmp_path / maps).unlink()
    raw.prepare(monkeypatch, "coco", tmp_path / "data", f"--from={tmp_path}", "--splits", "val2017")  # is finished
    assert len(unpacked) == 4


def run_ade(monkeypatch: pytest.MonkeyPatch, served: Path, root: Path, *arguments: str, count: int = 2) -> None:
    script = importlib.import_module("prepare_ade20k")
    archive = Archive((served / "ADEChallengeData2016.zip").as_uri(), "ADEChallengeData2016.zip")
    changed = {"archives": [archive], "images": {"training": 2, "validation": count}, "unpacked": 0}
    monkeypatch.setattr(script, "ADE", Release(**{**vars(script.ADE), **changed}))
    monkeypatch.setattr(sys, "argv", ["prepare_ade20k.py", f"--root={root}", "--workers=1", *arguments])
    script.main()


def test_archives_are_deleted_once_everything_is_checked(served: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    raw.write_ade(served)
    root = tmp_path / "root"
    with pytest.raises(InputError, match=r"validation has 2 images instead of 3.*--no-verify"):
        run_ade(monkeypatch, served, root, "--delete-archives", count=3)
    assert downloads(root) == ["ADEChallengeData2016.zip", "ADEChallengeData2016.zip.ok"]
    run_ade(monkeypatch, served, root)
    assert "--delete-archives deletes them" in capsys.readouterr().out
    run_ade(monkeypatch, served, root, "--delete-archives")
    assert downloads(root) == []
    (served / "ADEChallengeData2016.zip").unlink()
    run_ade(monkeypatch, served, root, "--delete-archives")  # finished data need no archive
    assert "validation: 2 images, as published" in capsys.readouterr().out


def test_archives_of_one_s_own_are_never_deleted(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_ade(served)
    run_ade(monkeypatch, served, tmp_path / "one", f"--from={served}", "--delete-archives")
    assert (served / "ADEChallengeData2016.zip").is_file()
    (tmp_path / "two" / "downloads").mkdir(parents=True)
    shutil.copy(served / "ADEChallengeData2016.zip", tmp_path / "two" / "downloads")
    run_ade(monkeypatch, served, tmp_path / "two", "--delete-archives")
    assert downloads(tmp_path / "two") == ["ADEChallengeData2016.zip"]


def test_pixels_are_counted_once_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks, record = [tmp_path / f"{i}.png" for i in range(3)], tmp_path / "record.json"
    for i, mask in enumerate(masks):
        mask.write_bytes(raw.grey_png(raw.blocks([i, 200])))
    read: list[Path] = []
    real = release_module.read_mask
    monkeypatch.setattr(release_module, "read_mask", lambda path: read.append(path) or real(path))
    first = pixels_per_value(masks, 1, record)
    assert np.array_equal(pixels_per_value(masks, 1, record), first) and len(read) == 3
    masks[0].write_bytes(raw.grey_png(raw.blocks([7, 200])))
    second = pixels_per_value(masks, 1, record)
    assert len(read) == 6 and second[7] == first[0] and second[0] == 0
    assert pixels_per_value(masks[1:], 1, record)[7] == 0 and len(read) == 8
    record.write_text("[]")
    assert np.array_equal(pixels_per_value(masks, 1, record), second) and len(read) == 11


def test_a_rerun_reads_no_mask(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_ade(served)
    run_ade(monkeypatch, served, tmp_path / "root")
    monkeypatch.setattr(release_module, "read_mask", lambda path: pytest.fail(f"{path} was read again"))
    run_ade(monkeypatch, served, tmp_path / "root")


def test_one_mask_is_counted(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.png").write_bytes(FILES["set/0.png"])
    args = argparse.Namespace(workers=1, verify=True, delete_archives=False)
    finish(args, tmp_path, [], {"all": ["0"]}, [tmp_path / "set" / "0.png"], ["a", "b", "c", "d"])
    record = json.loads((tmp_path / UNPACKED / "pixels.set.json").read_text())
    assert set(record["pixels"]) == {"0", "3"}


def test_images_of_voc_that_are_gone_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    raw.write_voc(tmp_path)
    raw.prepare(monkeypatch, "voc", tmp_path / "data", f"--from={tmp_path}")
    (tmp_path / "data" / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{raw.VOC_VAL[0]}.jpg").unlink()
    capsys.readouterr()
    raw.prepare(monkeypatch, "voc", tmp_path / "data")
    assert "val: 1 images, 1449 published" in capsys.readouterr().out
