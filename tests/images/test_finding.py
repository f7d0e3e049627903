"""Which files below a folder are images, and which are skipped."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskclip import InputError
from maskclip.data.datamodule import SegmentationData
from maskclip.data.dataset import SegmentationDataset
from maskclip.images.finding import RECORDS, LeftOut, find_images, match_images
from maskclip.segmenting.inputs import find_inputs
from maskclip.segmenting.outputs import FOLDERS

Walk = Callable[[Path], tuple[list[str], LeftOut]]


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def by_segment(folder: Path) -> tuple[list[str], LeftOut]:
    images, left_out = find_inputs([str(folder)], Path("/nowhere"))
    return [image.name for image in images], left_out


def by_glob(folder: Path) -> tuple[list[str], LeftOut]:
    images, left_out = find_inputs([f"{folder}/**/*"], Path("/nowhere"))
    return [image.name for image in images], left_out


def by_data_folder(folder: Path) -> tuple[list[str], LeftOut]:
    data = SegmentationDataset(folder, "%", num_classes=2, hide="all")
    return data.names, data.left_out


@pytest.fixture(params=[by_segment, by_glob, by_data_folder], ids=["segment", "glob", "data=folder"])
def walk(request: pytest.FixtureRequest) -> Walk:
    return request.param


def record(folder: Path, name: str = "segment.json", content: Any = None) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"settings": {}} if content is None else content))
    return folder


def test_hidden_files_and_thumbnails_are_skipped(walk: Walk, tmp_path: Path) -> None:
    fill(tmp_path, "b.jpg", "a/c.PNG", ".thumbnails/b.jpg", "._b.jpg", "@eaDir/b.jpg/SYNOPHOTO_THUMB_XL.jpg", "__MACOSX/b.jpg")
    images, left_out = walk(tmp_path)
    assert images == ["a/c.PNG", "b.jpg"] and left_out.sentences() == []


def test_linked_folders_are_visited_once(walk: Walk, tmp_path: Path) -> None:
    albums, elsewhere = fill(tmp_path / "photos", "a.jpg", "real/b.jpg"), fill(tmp_path / "elsewhere", "deep/c.jpg")
    (albums / "album").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(albums)
    (albums / "z").symlink_to(albums / "real")
    assert walk(albums)[0] == ["a.jpg", "album/deep/c.jpg", "real/b.jpg"]


def test_a_folder_keeps_its_name_beside_links_to_it(walk: Walk, tmp_path: Path) -> None:
    photos = fill(tmp_path, "z/real/b.jpg")
    (photos / "a").symlink_to(photos / "z" / "real")
    assert walk(photos)[0] == ["z/real/b.jpg"]


def test_records_of_runs_are_skipped(walk: Walk, tmp_path: Path) -> None:
    record(fill(tmp_path, "cat.jpg", "out/masks/a.png", "out/legend.json", "out/sources.jsonl", "out/broken.txt") / "out")
    images, left_out = walk(tmp_path)
    assert images == ["cat.jpg"] and not left_out.suffixes


def test_links_to_outputs_are_skipped(walk: Walk, tmp_path: Path) -> None:
    record(fill(tmp_path / "out", "masks/cat.png"))
    photos = fill(tmp_path / "photos", "cat.jpg")
    (photos / "old").symlink_to(tmp_path / "out" / "masks")
    images, left_out = walk(photos)
    assert images == ["cat.jpg"] and any("old" in sentence for sentence in left_out.sentences())


def test_a_link_to_a_folder_is_not_a_file(walk: Walk, tmp_path: Path) -> None:
    fill(tmp_path, "cat.jpg", "notes/a.txt")
    (tmp_path / "more.jpg").symlink_to(tmp_path / "notes")
    images, left_out = walk(tmp_path)
    assert images == ["cat.jpg"] and left_out.suffixes == {".txt": 1}


def test_broken_links_are_listed(walk: Walk, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    assert walk(tmp_path)[0] == ["a.jpg"]


def test_files_that_are_not_readable_images_are_counted(walk: Walk, tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.xcf", "sub/c.XCF", "d.svg", "notes.txt", "notes.json", "sub/notes.json", "README")
    images, left_out = walk(tmp_path)
    assert images == ["a.jpg"]
    unreadable, others = left_out.sentences()
    assert unreadable.startswith("left out: images in formats that cannot be read: 2 .xcf, 1 .svg (.xcf: ")
    assert others == "left out: files that are not images: 2 .json, 1 without suffix, 1 .txt"


def test_outputs_of_earlier_runs_are_skipped(walk: Walk, tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "out/b.jpg", "out/masks/a.jpg.png", "out/overlays/sub/a.jpg.jpg", "out/legend.png", "masks/c.jpg")
    record(tmp_path / "out")
    images, left_out = walk(tmp_path)
    assert images == ["a.jpg", "masks/c.jpg", "out/b.jpg"], "other images in a folder with outputs are listed"
    assert f"left out: outputs of earlier runs: {tmp_path / 'out'}" in left_out.sentences()


@pytest.mark.parametrize(
    ("name", "content", "outputs"),
    [
        (".hydra/config.yaml", {"model": {"_target_": "maskclip.models.maskclip.MaskCLIP.build"}}, ("crops/1.png", "saved_images/a.png")),
        ("results.json", {"protocol_hash": "abc"}, ("saved_images/a.png",)),
        ("report.json", {"images": 1, "problems": []}, ("sheet.png",)),
        ("summary.json", [{"harmonic": 1.0}], ("overview.png",)),
    ],
)
def test_outputs_of_all_programs_are_skipped(walk: Walk, tmp_path: Path, name: str, content: Any, outputs: tuple[str, ...]) -> None:
    record(fill(tmp_path, "a.jpg", *(f"runs/1/{output}" for output in outputs)) / "runs" / "1", name, content)
    assert walk(tmp_path)[0] == ["a.jpg"]


def test_records_of_other_software_hide_nothing(walk: Walk, tmp_path: Path) -> None:
    for name, _, outputs in RECORDS:
        record(tmp_path, name, {"of": "another program"})
        fill(tmp_path, *(f"{output}/a.jpg" for output in outputs if "." not in output))
    assert len(walk(tmp_path)[0]) == len({output for *_, outputs in RECORDS for output in outputs if "." not in output})


def test_every_folder_of_outputs_is_in_the_records() -> None:
    assert set(FOLDERS) == set(RECORDS[0][2])


@pytest.mark.parametrize("inner", ["overlays", "overlays/sub"])
def test_outputs_as_the_source_are_refused(walk: Walk, tmp_path: Path, inner: str) -> None:
    record(fill(tmp_path, "overlays/sub/a.jpg.jpg", "own/a.jpg"))
    with pytest.raises(InputError, match=r"has outputs of an earlier run \(.*overlays\): give the folder of the original images"):
        walk(tmp_path / inner)
    assert walk(tmp_path / "own")[0] == ["a.jpg"]


def test_a_folder_with_outputs_only(walk: Walk, tmp_path: Path) -> None:
    record(fill(tmp_path, "overlays/a.jpg.jpg"))
    with pytest.raises(InputError, match=r"no images.*; left out: outputs of earlier runs: "):
        walk(tmp_path)


def test_closed_folders_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.jpg", "closed/b.jpg")
    real = os.scandir

    def scandir(folder: str) -> Any:
        if folder.endswith("closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    left_out = LeftOut()
    assert find_images(tmp_path, left_out, "input") == ["a.jpg"]
    assert left_out.sentences() == [f"left out: folders that cannot be opened: {tmp_path / 'closed'}"]


def test_globs_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path, "one/a.jpg", "two/b.jpg", "two/c.png"))
    assert match_images("t*/*.jpg", LeftOut(), "input") == (Path(), ["two/b.jpg"])
    assert match_images("./two/../two/*.png", LeftOut(), "input") == (Path("two/../two"), ["c.png"])


def test_a_pattern_with_a_suffix_chooses_among_all_visible_files(tmp_path: Path) -> None:
    fill(tmp_path, "x/a.odd", "x/.b.odd", "x/overlays/c.odd", "y/d.odd")
    record(tmp_path / "x")
    data = SegmentationDataset(tmp_path, "x/%.odd", num_classes=2, hide="all")
    assert data.names == ["a"] and not data.left_out.suffixes


def test_data_sets_warn_of_skipped_files(tmp_path: Path) -> None:
    data = SegmentationData(["cat"], root=str(fill(tmp_path, "a.jpg", "b.xcf")), images="%", labels="none")
    with pytest.warns(UserWarning, match=r"images in formats that cannot be read: 1 \.xcf"):
        data.dataset("train")
