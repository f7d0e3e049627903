"""The report of scripts/inspect_data.py for a data set without problems, and for one with problems."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import inspect_data
import numpy as np
import pytest
from PIL import Image


def inspect(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["inspect_data.py", f"paths.output={folder}", f"hydra.run.dir={folder}", *overrides])
    inspect_data.main()
    return json.loads((folder / "report.json").read_text())


def test_a_sound_data_set(textures_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report = inspect(monkeypatch, tmp_path, "data=textures", f"data.root={textures_root}")
    assert report["images"] == 5 and report["problems"] == [] and sum(report["sizes"].values()) == 5
    pixels = sum(int(size.split("x")[0]) * int(size.split("x")[1]) * count for size, count in report["sizes"].items())
    assert sum(report["pixels"].values()) == pixels and report["pixels"]["ignored"] > 0
    printed = capsys.readouterr().out
    assert "5 images, 0 problems" in printed and "brick wall" in printed and "train and val" not in printed
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * inspect_data.CELL and sheet.height > 5 * inspect_data.CELL
    assert inspect(monkeypatch, tmp_path, "data=textures", f"data.root={textures_root}", "split=train", "sample=3")["images"] == 3


def test_problems_are_listed_with_their_files(textures_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "bad"
    shutil.copytree(textures_root, root)
    images, masks = root / "JPEGImages", root / "SegmentationClass"
    (images / "val_00000.jpg").write_bytes(b"nothing")
    (masks / "val_00001.png").unlink()
    Image.new("L", (5, 5)).save(masks / "val_00002.png")
    Image.fromarray(np.full(np.asarray(Image.open(masks / "val_00003.png")).shape, 77, np.uint8)).save(masks / "val_00003.png")
    report = inspect(monkeypatch, tmp_path / "out", "data=textures", f"data.root={root}")
    advice, *problems = report["problems"]
    assert len(problems) == 4 and "'data.ignore=[77]'" in advice
    assert "cannot read the image" in problems[0] and "val_00000.jpg" in problems[0]
    assert "no such mask" in problems[1] and "val_00001.png" in problems[1]
    assert "val_00002.png is 5 x 5 pixels" in problems[2]
    assert "val_00003.png has labels [77]" in problems[3]


def test_turned_images_are_counted(textures_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, exif = tmp_path / "turned", Image.Exif()
    shutil.copytree(textures_root, root)
    exif[0x0112] = 3
    for name in ("val_00000", "val_00001"):
        path = root / "JPEGImages" / f"{name}.jpg"
        Image.open(path).save(path, exif=exif)
    report = inspect(monkeypatch, tmp_path / "out", "data=textures", f"data.root={root}")
    assert report["turned"] == 2 and report["problems"] == []
    exif[0x0112] = 6
    Image.new("RGB", (50, 40)).save(root / "JPEGImages" / "val_00002.jpg", exif=exif)
    Image.new("L", (50, 40)).save(root / "SegmentationClass" / "val_00002.png")
    (problem,) = inspect(monkeypatch, tmp_path / "out", "data=textures", f"data.root={root}")["problems"]
    assert "EXIF orientation 6" in problem and "data.exif=false" in problem
    assert inspect(monkeypatch, tmp_path / "out", "data=textures", f"data.root={root}", "data.exif=false")["problems"] == []


def test_a_folder_without_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "photos" / "a.jpg")
    report = inspect(monkeypatch, tmp_path / "out", "data=folder", f"data.root={tmp_path / 'photos'}", "classes.names=[cat]")
    assert "train and val" not in capsys.readouterr().out
    assert report["images"] == 1 and report["sizes"] == {"30x20": 1} and (tmp_path / "out" / "sheet.png").is_file()


def test_every_value_is_listed_with_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, row in (("a", [0, 1, 1, 2]), ("b", [1, 2, 2, 2])):
        Image.new("RGB", (4, 1)).save(tmp_path / f"{name}.jpg")
        Image.fromarray(np.array([row], np.uint8)).save(tmp_path / f"{name}.png")
    where = ("data=folder", f"data.root={tmp_path}", "classes.names=[sky,road]", "data.images=%.jpg", "data.masks=%.png")
    report = inspect(monkeypatch, tmp_path / "out", *where)
    assert [(v["value"], v["class"], v["pixels"]) for v in report["values"]] == [(0, "sky", 1), (1, "road", 3), (2, "unknown", 4)]
    assert "'data.ignore=[2]', and value 0 stays sky" in report["problems"][0]
    assert "value 1 is sky, value 2 is road" in report["problems"][0]
    report = inspect(monkeypatch, tmp_path / "out", *where, "data.ignore=[2]")
    assert report["problems"] == [] and report["pixels"] == {"sky": 1, "road": 3, "ignored": 4}
    assert "value 2     ignored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        (["data.images=%.jpg"], True),
        (["data.images=%.jpg", "data.train=list.txt", "data.val=list.txt"], True),
        (["data.images=%.jpg", "data.train=train.txt", "data.val=list.txt"], False),
        (["data.images={train: a%.jpg, val: b%.jpg}", "data.masks={train: a%.png, val: b%.png}"], False),
    ],
)
def test_train_and_val_with_the_same_images_are_reported(
    overrides: list[str], same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a0", "b0"):
        Image.new("RGB", (4, 1)).save(tmp_path / f"{name}.jpg")
        Image.new("L", (4, 1)).save(tmp_path / f"{name}.png")
    (tmp_path / "list.txt").write_text("a0\nb0\n")
    (tmp_path / "train.txt").write_text("a0\n")
    where = ("data=folder", f"data.root={tmp_path}", "classes.names=[sky]", "data.masks=%.png", *overrides)
    assert inspect(monkeypatch, tmp_path / "out", *where, "sample=1")["problems"] == []
    sentence = "train and val are the same 2 images: give split files data.train and data.val, or patterns by split"
    assert (sentence in capsys.readouterr().out) == same


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("split=tests", "split=tests: choose"),
        ("sample=0", "sample=0: expected"),
        ("data.images={train: a}", "no pattern for the split val"),
    ],
)
def test_bad_settings_are_a_sentence(
    override: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        inspect(monkeypatch, tmp_path, "data=folder", f"data.root={tmp_path}", "classes.names=[cat]", override)
    assert message in capsys.readouterr().err
