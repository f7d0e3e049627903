"""Every prepare script, from archives in the published form to masks, split files and a step of training."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from support import raw_releases as raw
from support.raw_releases import WRITERS, prepare

from maskclip import InputError
from maskclip.images.reading import read_mask
from maskclip.prepare.release import convert, read_lines
from maskclip.prepare.unpack import unpack
from maskclip.programs.training import train_student


def stripes(path: Path) -> list[int]:
    """The labels of a mask that is vertical stripes, from left to right."""
    row = read_mask(path)[0]
    assert (read_mask(path) == row).all()
    return [int(value) for i, value in enumerate(row) if i == 0 or row[i - 1] != value]


def test_voc(prepared: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    voc = prepared("voc") / "VOCdevkit" / "VOC2012"
    names = read_lines(voc / "ImageSets" / "Segmentation" / "trainaug.txt")
    assert names == ["2007_000032", "2007_000039", "2008_000002", "2008_000003"]  # train and SBD, without val
    assert stripes(voc / "SegmentationClassAug" / "2008_000002.png") == [0, 3, 20]  # SBD's
    for name in ("2007_000032", "2007_000042"):  # SBD has these too; VOC's own count
        assert stripes(voc / "SegmentationClassAug" / f"{name}.png") == raw.BORDERED
    assert not (voc / "Annotations").exists()  # nothing is unpacked that is not needed
    printed = capsys.readouterr().out
    assert "trainaug: 4 images, 10582 published" in printed and "val: 2 images, 1449 published" in printed
    assert "person" in printed and "ignored" in printed


def test_context(prepared: Callable[..., Path], tmp_path: Path) -> None:
    voc = prepared("context") / "VOCdevkit" / "VOC2010"
    assert stripes(voc / "SegmentationClassContext" / "2008_000008.png") == [0, 1, 2, 0, 59, 0]
    assert stripes(voc / "SegmentationClassContext459" / "2008_000008.png") == [65535, 0, 1, 8, 254, 255, 457, 458]
    for split, names in (("train", raw.CONTEXT_TRAIN), ("val", raw.CONTEXT_VAL)):  # without the three that are left out
        assert read_lines(voc / "ImageSets" / "SegmentationContext" / f"{split}.txt") == names
    lists = tmp_path / "trainval_merged.json"
    lists.write_text('{"images": [{"file_name": "2008_000015.jpg", "phase": "val"}, {"file_name": "2008_000002.jpg", "phase": "train"}]}')
    prepared("context", f"--lists={lists}")
    assert read_lines(voc / "ImageSets" / "SegmentationContext" / "val.txt") == ["2008_000015"]
    lists.write_text("[]")
    with pytest.raises(InputError, match=r"trainval_merged.json .--lists. is not a list of images"):
        prepared("context", f"--lists={lists}")


def test_context_on_the_images_of_voc_2012(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_context_2012(tmp_path)
    root = tmp_path / "data"
    prepare(monkeypatch, "context", root, f"--from={tmp_path}")
    check_context_2012(root)
    (tmp_path / "VOCtrainval_11-May-2012.tar").unlink()
    prepare(monkeypatch, "context", root, f"--from={tmp_path}")  # neither VOC is asked for


def test_context_beside_voc_2012(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has VOC 2012, unpacked by whatever tool, needs the label maps alone."""
    raw.write_context_2012(tmp_path)
    root = tmp_path / "data"
    unpack(tmp_path / "VOCtrainval_11-May-2012.tar", root)
    (tmp_path / "VOCtrainval_11-May-2012.tar").unlink()
    prepare(monkeypatch, "context", root, f"--from={tmp_path}")
    check_context_2012(root)
    with pytest.raises(InputError, match=r"no VOCtrainval_03-May-2010\.tar in "):
        prepare(monkeypatch, "context", root, f"--from={tmp_path}", "--voc=2010")


def check_context_2012(root: Path) -> None:
    voc, names = root / "VOCdevkit" / "VOC2010", sorted([*raw.CONTEXT_TRAIN, *raw.CONTEXT_VAL])
    lists = voc / "ImageSets" / "SegmentationContext"
    assert read_lines(lists / "train.txt") == raw.CONTEXT_TRAIN and read_lines(lists / "val.txt") == raw.CONTEXT_VAL
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClassContext", "png"), ("SegmentationClassContext459", "png")):
        assert sorted(path.name for path in (voc / folder).iterdir()) == [f"{name}.{suffix}" for name in names]
    image = voc / "JPEGImages" / f"{names[0]}.jpg"
    assert image.samefile(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / image.name)  # a link takes no space


def test_context_copies_images_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    raw.write_context_2012(tmp_path)
    monkeypatch.setattr(os, "link", unsupported)
    prepare(monkeypatch, "context", tmp_path / "data", f"--from={tmp_path}")
    name = f"JPEGImages/{raw.CONTEXT_VAL[0]}.jpg"
    voc = tmp_path / "data" / "VOCdevkit"
    assert (voc / "VOC2010" / name).read_bytes() == (voc / "VOC2012" / name).read_bytes()


def test_lists_of_voc_2012_that_do_not_give_the_published_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_context_2012(tmp_path)
    unpack(tmp_path / "VOCtrainval_11-May-2012.tar", tmp_path / "data")
    script = importlib.import_module("prepare_context")
    monkeypatch.setattr(script, "obtain", lambda releases, root, source, verify: unpack(tmp_path / "trainval.tar.gz", root))
    monkeypatch.setattr(sys, "argv", ["prepare_context.py", f"--root={tmp_path / 'data'}"])
    with pytest.raises(InputError, match=r"the lists of VOC 2012 give .*'train': 2, 'val': 2.* instead of .*4996.*with --voc 2010"):
        script.main()
    assert not (tmp_path / "data" / "VOCdevkit" / "VOC2010").exists()


def test_coco(prepared: Callable[..., Path]) -> None:
    coco = prepared("coco") / "coco"
    for split, names in raw.COCO.items():
        assert read_lines(coco / "stuff171" / f"{split}.txt") == [f"{split}/{name}" for name in names]
        assert stripes(coco / "stuff171" / split / f"{names[0]}.png") == [0, 10, 11, 79, 80, 170, 255]
    assert stripes(coco / "object81" / "val2017" / "000000000139.png") == [1, 11, 12, 80, 0]
    assert read_lines(coco / "object81" / "train2017.txt") == read_lines(coco / "stuff171" / "train2017.txt")


def test_coco_for_evaluation_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_coco(tmp_path)
    (tmp_path / "train2017.zip").unlink()
    prepare(monkeypatch, "coco", tmp_path / "data", f"--from={tmp_path}", "--splits", "val2017")
    assert (tmp_path / "data" / "coco" / "stuff171" / "val2017.txt").is_file()
    assert not (tmp_path / "data" / "coco" / "train2017").exists()
    raw.write_coco(tmp_path)  # the rest, later
    prepare(monkeypatch, "coco", tmp_path / "data", f"--from={tmp_path}")
    assert len(read_lines(tmp_path / "data" / "coco" / "stuff171" / "train2017.txt")) == 3


def test_archives_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_voc(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare_voc.py", f"--root={tmp_path / 'data'}", f"--from={tmp_path}"])
    with pytest.raises(InputError, match=r"VOCtrainval_11-May-2012.tar is not the published file: 1999639040 bytes expected.*--no-verify"):
        importlib.import_module("prepare_voc").main()


def test_a_release_that_lost_a_part(prepared: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = prepared("voc")
    (root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(InputError, match=r"no .*val.txt: the release is not complete; delete the folder .unpacked"):
        prepare(monkeypatch, "voc", root)
    for path in (root / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir():
        path.unlink()
    for path in (root / ".unpacked").iterdir():
        path.unlink()
    assert len(read_lines(prepared("voc") / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt")) == 2


def test_the_help_names_every_archive(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_voc.py", "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module("prepare_voc").main()
    said = capsys.readouterr().out
    assert "VOCtrainval_11-May-2012.tar (2.0 GB): https://thor" in said and "benchmark.tgz" in said and said.count("terms:") == 2


@pytest.mark.parametrize(
    ("name", "first", "lines"),
    [
        (
            "voc",
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar VOCtrainval_11-May-2012.tar 1999639040 md5:",
            4,
        ),
        ("context", "https://roozbehm.info/pascal-context/trainval.tar.gz trainval.tar.gz - md5:df034edb2c12aa7d33b42b20bb1796e3", 7),
        ("coco", "http://images.cocodataset.org/zips/train2017.zip train2017.zip 19336861798 md5:", 3),
        ("cityscapes", "https://www.cityscapes-dataset.com/downloads/ gtFine_trainvaltest.zip 252567705 md5:", 2),
        ("ade20k", "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip ADEChallengeData2016.zip 967382037 md5:", 1),
    ],
)
def test_the_addresses_are_listed(name: str, first: str, lines: int, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        prepare(monkeypatch, name, tmp_path / "data", "--urls")
    assert ended.value.code == 0 and not (tmp_path / "data").exists()
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert " ".join(printed[0]).startswith(first)
    assert len(printed) == lines and {len(fields) for fields in printed} == {4}


def test_cityscapes(prepared: Callable[..., Path]) -> None:
    city = prepared("cityscapes") / "cityscapes"
    assert read_lines(city / "train.txt") == [f"train/{name}" for name in raw.CITY["train"]]
    assert stripes(city / "gtFine" / "val" / f"{raw.CITY['val'][0]}_gtFine_labelTrainIds.png") == [255, 0, 1, 255, 13, 18, 255]
    assert not (city / "leftImg8bit" / "test").exists()


def test_ade(prepared: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    ade = prepared("ade20k") / "ADEChallengeData2016"
    assert read_lines(ade / "validation.txt") == [f"validation/{name}" for name in raw.ADE["validation"]]
    assert "flag" in capsys.readouterr().out  # the last of 150 classes, stored as 150


@pytest.mark.parametrize("name", WRITERS)
def test_running_again_changes_nothing_and_needs_no_archives(name: str, prepared: Callable[..., Path], monkeypatch: Any) -> None:
    root = prepared(name)
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*.png")}
    prepare(monkeypatch, name, root)
    assert files == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*.png")}


def test_an_interrupt_leaves_no_split_and_no_half_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_voc(tmp_path)
    script, done = importlib.import_module("prepare_voc"), []

    def stop_at_the_second(source: Path, target: Path, palette: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(target)
        convert(source, target, palette)

    convert = script.sbd_mask
    monkeypatch.setattr(script, "sbd_mask", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare(monkeypatch, "voc", tmp_path / "data", f"--from={tmp_path}")
    voc = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    assert not (voc / "ImageSets" / "Segmentation" / "trainaug.txt").exists()
    assert {p.name for p in (voc / "SegmentationClassAug").iterdir()} == {f"{n}.png" for n in (*raw.VOC_TRAIN, *raw.VOC_VAL, done[0].stem)}
    monkeypatch.setattr(script, "sbd_mask", convert)
    prepare(monkeypatch, "voc", tmp_path / "data")
    assert len(read_lines(voc / "ImageSets" / "Segmentation" / "trainaug.txt")) == 4


def test_images_without_masks_are_left_out_and_named(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    raw.write_coco(tmp_path)
    maps = {f"val2017/{raw.COCO['val2017'][0]}.png": raw.grey_png(raw.blocks(raw.COCO_VALUES))}
    raw.write_zip(tmp_path / "stuffthingmaps_trainval2017.zip", maps)
    prepare(monkeypatch, "coco", tmp_path / "data", f"--from={tmp_path}", "--splits", "val2017")
    assert read_lines(tmp_path / "data" / "coco" / "stuff171" / "val2017.txt") == ["val2017/000000000139"]
    assert "1 images without a map, left out: val2017/000000000285" in capsys.readouterr().out


def test_broken_masks_are_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_cityscapes(tmp_path)
    labels = {f"gtFine/train/{n}_gtFine_labelIds.png": b"no PNG" for n in raw.CITY["train"]}
    labels |= {f"gtFine/val/{n}_gtFine_labelIds.png": raw.grey_png(raw.blocks(raw.CITY_IDS, (128, 64))) for n in raw.CITY["val"]}
    raw.write_zip(tmp_path / "gtFine_trainvaltest.zip", labels)
    with pytest.raises(InputError, match=r"2 of 4 files could not be converted:\n.*aachen_000000_000019_gtFine_labelIds.png"):
        prepare(monkeypatch, "cityscapes", tmp_path / "data", f"--from={tmp_path}")
    city = tmp_path / "data" / "cityscapes"
    assert not (city / "train.txt").exists()
    assert len(list(city.rglob("*labelTrainIds.png"))) == 2


def test_missing_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"register at https://www.cityscapes-dataset.com.*with gtFine_trainvaltest.zip"):
        prepare(monkeypatch, "cityscapes", tmp_path / "data")
    with pytest.raises(InputError, match=r"no ADEChallengeData2016.zip in .* \(--from\)"):
        prepare(monkeypatch, "ade20k", tmp_path / "data", f"--from={tmp_path}")
    with pytest.raises(InputError, match=r"no folder .*nowhere \(--from\)"):
        prepare(monkeypatch, "ade20k", tmp_path / "data", f"--from={tmp_path}/nowhere")
    raw.write_zip(tmp_path / "ADEChallengeData2016.zip", {"other/readme.md": b""})
    with pytest.raises(InputError, match=r"holds nothing that ADE20K .* should"):
        prepare(monkeypatch, "ade20k", tmp_path / "data", f"--from={tmp_path}")


def _die(source: Path, target: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_converting_process_that_is_killed(tmp_path: Path) -> None:
    jobs = [(Path(str(i)), tmp_path / str(i)) for i in range(8)]
    with pytest.raises(InputError, match=r"a process was killed while converting.*fewer --workers"):
        convert(jobs, _die, 2, "converting")


def test_several_processes_convert_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_context(tmp_path)
    prepare(monkeypatch, "context", tmp_path / "one", f"--from={tmp_path}")
    prepare(monkeypatch, "context", tmp_path / "two", f"--from={tmp_path}", "--workers=2")
    masks = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.png"))
    assert len(masks) == 8
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in masks)


@pytest.mark.parametrize(
    ("name", "data", "labels"),
    [
        ("voc", "voc20", "seen"),
        ("voc", "voc21", "seen"),
        ("context", "context59", "oracle_ignore"),
        ("context", "context60", "seen"),
        ("context", "context459", "none"),
        ("coco", "coco_stuff", "seen"),
        ("coco", "coco_object", "none"),
        ("cityscapes", "cityscapes", "oracle_ignore"),
        ("ade20k", "ade20k", "oracle_ignore"),
    ],
)
def test_from_the_release_to_a_step_of_training(name: str, data: str, labels: str, prepared: Callable[..., Path], tmp_path: Path) -> None:
    """The teacher is the shipped CLIP: what it says of these pictures means nothing, all the rest is as ever."""
    overrides = [
        f"data={data}",
        f"data.labels={labels}",
        f"paths.data={prepared(name)}",
        f"paths.output={tmp_path / 'out'}",
        "teacher.templates=simple",
        "teacher.cache=null",
        "data.batch_size=2",
        "data.num_workers=0",
        "data.augmentation.crop=64",
        "data.augmentation.short=64",
        "data.augmentation.long=128",
        "protocol.short_side=64",
        "protocol.long_side=128",
        "student.encoder=resnet18",
        "student.weights=null",
        "student.decoder_channels=16",
        "trainer=cpu",
        "trainer.max_steps=1",
        "trainer.val_check_interval=1",
        "trainer.enable_progress_bar=false",
        "logger=none",
        "images_to_save=1",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), pytest.warns(UserWarning, match="mean nothing to it"):
        card, student = train_student(compose("train", overrides=overrides), tmp_path / "out")
    assert card is not None and card["images"] == 2 and 0 <= card["pixel_accuracy"] <= 100
    assert len(student.vocabulary) == len(card["iou"]) and np.load(tmp_path / "out" / "confusion.npy").sum() > 0
