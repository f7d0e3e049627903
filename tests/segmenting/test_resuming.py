"""A run goes on where another one stopped, or says why not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from maskclip import InputError, Vocabulary
from maskclip.segmenting.inputs import Picture, find_pictures, with_pages
from maskclip.segmenting.outputs import Outputs
from maskclip.segmenting.resuming import SOURCES, prepare

SETTINGS: dict[str, Any] = {"model.weights_sha256": "abc", "classes.names": ["cat", "sky"], "protocol.short_side": 512, "top": None}
WORDS = Vocabulary(["cat", "sky"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in "abc":
        (tmp_path / "photos" / f"{name}.png").write_text("")
    return tmp_path / "photos"


def outputs_in(tmp_path: Path, **kinds: Any) -> Outputs:
    return Outputs(tmp_path / "out", WORDS, **kinds)


def pictures_of(*sources: Path) -> list[Picture]:
    return find_pictures([str(source) for source in sources], Path("/nowhere"))[0]


def write(outputs: Outputs, *names: str) -> None:
    for name in names:
        for kind in outputs.kinds:
            outputs.path(kind, name).parent.mkdir(parents=True, exist_ok=True)
            outputs.path(kind, name).write_text("")


def todo(outputs: Outputs, pictures: list[Picture], overwrite: bool = False, **settings: Any) -> list[str]:
    return [picture.name for picture in prepare(outputs, pictures, SETTINGS | settings, overwrite)]


def test_what_is_there_is_not_done_again(tmp_path: Path, photos: Path) -> None:
    outputs, pictures = outputs_in(tmp_path), pictures_of(photos)
    assert todo(outputs, pictures) == ["a.png", "b.png", "c.png"]
    write(outputs, "a.png", "c.png")
    assert todo(outputs, pictures) == ["b.png"]
    outputs.path("overlays", "c.png").unlink()
    assert todo(outputs, pictures) == ["b.png", "c.png"]
    assert todo(outputs_in(tmp_path, overlays=False), pictures) == ["b.png"]
    assert todo(outputs_in(tmp_path, soft=["margin"]), pictures) == ["a.png", "b.png", "c.png"]


def test_a_picture_that_was_changed_is_done_again(tmp_path: Path, photos: Path) -> None:
    outputs, pictures = outputs_in(tmp_path), pictures_of(photos)
    todo(outputs, pictures)
    write(outputs, "a.png", "b.png", "c.png")
    os.utime(photos / "b.png", (1000, 1000))  # put there by cp -p, and older than the outputs
    (photos / "c.png").write_text("more")
    assert todo(outputs, pictures) == ["b.png", "c.png"]
    assert not outputs.path("masks", "b.png").exists(), "a kill from here on would leave it beside a record of the new picture"
    write(outputs, "b.png", "c.png")
    assert todo(outputs, pictures) == []


def test_a_record_that_was_cut_off(tmp_path: Path, photos: Path) -> None:
    outputs, pictures = outputs_in(tmp_path), pictures_of(photos)
    todo(outputs, pictures)
    write(outputs, "a.png", "b.png", "c.png")
    record = tmp_path / "out" / SOURCES
    record.write_text(record.read_text()[:-20])
    assert todo(outputs, pictures) == ["c.png"]
    write(outputs, "c.png")
    assert todo(outputs, pictures) == []


def test_pictures_that_were_moved(tmp_path: Path, photos: Path) -> None:
    outputs = outputs_in(tmp_path)
    todo(outputs, pictures_of(photos))
    write(outputs, "a.png", "b.png", "c.png")
    moved = photos.rename(tmp_path / "moved")
    assert todo(outputs, pictures_of(moved)) == []
    (moved / "a.png").write_text("changed there")
    assert todo(outputs, pictures_of(moved)) == ["a.png"]


def test_neighbours_that_come_and_go_change_no_names(tmp_path: Path, photos: Path) -> None:
    outputs = outputs_in(tmp_path)
    (photos / "a.jpg").write_text("another")
    assert todo(outputs, pictures_of(photos / "a.jpg")) == ["a.jpg"]
    write(outputs, "a.jpg")
    assert todo(outputs, pictures_of(photos)) == ["a.png", "b.png", "c.png"]
    write(outputs, "a.png", "b.png", "c.png")
    (photos / "a.png").unlink()
    assert todo(outputs, pictures_of(photos)) == []


def test_outputs_of_an_earlier_version_are_refused(tmp_path: Path, photos: Path) -> None:
    outputs, pictures = outputs_in(tmp_path), pictures_of(photos)
    write(outputs, "a")
    (tmp_path / "out" / "segment.json").write_text(json.dumps({"settings": SETTINGS}))
    with pytest.raises(InputError, match=r"another version of this program, which gave them other names: .*overwrite=true"):
        todo(outputs, pictures)
    assert todo(outputs, pictures, overwrite=True) == ["a.png", "b.png", "c.png"]
    assert not outputs.path("masks", "a").exists()


def test_further_pages_are_added_to_first_ones(tmp_path: Path, photos: Path) -> None:
    pages = [Image.new("L", (8, 6), 40 * page) for page in range(3)]
    pages[0].save(photos / "a.tif", save_all=True, append_images=pages[1:])
    outputs, pictures = outputs_in(tmp_path), pictures_of(photos / "a.tif")
    assert todo(outputs, pictures) == ["a.tif"]
    write(outputs, "a.tif")
    assert todo(outputs, with_pages(pictures)) == ["a.tif.page-0002", "a.tif.page-0003"]
    write(outputs, "a.tif.page-0002", "a.tif.page-0003")
    assert todo(outputs, with_pages(pictures)) == [] == todo(outputs, pictures)


def test_a_name_that_is_too_long_is_still_to_be_done(tmp_path: Path, photos: Path) -> None:
    (photos / f"{'x' * 250}.png").write_text("")
    outputs = outputs_in(tmp_path)
    for _ in range(2):
        assert f"{'x' * 250}.png" in todo(outputs, pictures_of(photos))


def test_a_picture_that_is_gone_leaves_its_outputs(tmp_path: Path, photos: Path) -> None:
    outputs, pictures = outputs_in(tmp_path), pictures_of(photos)
    todo(outputs, pictures)
    write(outputs, "a.png", "b.png", "c.png")
    content = (photos / "b.png").stat()
    (photos / "b.png").unlink()
    assert todo(outputs, pictures) == ["b.png"] and outputs.path("masks", "b.png").exists()
    (photos / "b.png").write_text("")
    os.utime(photos / "b.png", ns=(content.st_mtime_ns, content.st_mtime_ns))
    assert todo(outputs, pictures) == []


def test_other_settings_are_refused_unless_all_is_done_anew(tmp_path: Path, photos: Path) -> None:
    outputs, pictures = outputs_in(tmp_path), pictures_of(photos)
    todo(outputs, pictures)
    write(outputs, "a.png", "b.png", "c.png")
    (tmp_path / "out" / "masks" / "notes.txt").write_text("somebody's")
    (tmp_path / "out" / "broken.txt").write_text("# of an earlier run\n")
    with pytest.raises(InputError, match=r'classes.names was \["cat", "sky"\], is \["cat"\]; protocol.flip was null, is true\): name'):
        todo(outputs, pictures, **{"classes.names": ["cat"], "protocol.flip": True})
    assert todo(outputs, pictures, overwrite=True, **{"classes.names": ["cat"]}) == ["a.png", "b.png", "c.png"]
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {"notes.txt", "legend.json", "legend.png", "segment.json", "sources.jsonl"}
    assert json.loads((tmp_path / "out" / "segment.json").read_text())["settings"]["classes.names"] == ["cat"]


def test_the_legend_names_what_is_there(tmp_path: Path, photos: Path) -> None:
    pictures, legend = pictures_of(photos), tmp_path / "out" / "legend.json"
    todo(outputs_in(tmp_path, soft=["margin"]), pictures)
    write(outputs_in(tmp_path, soft=["margin"]), "a.png")
    todo(outputs_in(tmp_path), pictures)
    assert list(json.loads(legend.read_text())["files"]) == ["masks/*.png", "overlays/*.jpg", "margin/*.png"]
    todo(outputs_in(tmp_path, overlays=False), pictures, overwrite=True)
    assert list(json.loads(legend.read_text())["files"]) == ["masks/*.png"]


def test_only_another_number_of_best_classes_differs(tmp_path: Path, photos: Path) -> None:
    pictures = pictures_of(photos)
    todo(outputs_in(tmp_path), pictures)
    todo(outputs_in(tmp_path, top=2), pictures, top=2)
    todo(outputs_in(tmp_path), pictures)
    with pytest.raises(InputError, match="top was 2, is 1"):
        todo(outputs_in(tmp_path, top=1), pictures, top=1)


def test_a_kill_while_old_outputs_are_removed(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, pictures = outputs_in(tmp_path), pictures_of(photos)
    todo(outputs, pictures)
    write(outputs, "a.png", "b.png", "c.png")
    real = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".png":
            raise KeyboardInterrupt
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            todo(outputs, pictures, overwrite=True, **{"protocol.short_side": 100})
    with pytest.raises(InputError, match="say overwrite=true again"):
        todo(outputs, pictures, **{"protocol.short_side": 100})
    assert len(todo(outputs, pictures, overwrite=True, **{"protocol.short_side": 100})) == 3


def test_files_of_others_are_left_alone(tmp_path: Path, photos: Path) -> None:
    outputs = outputs_in(tmp_path)
    write(outputs, "a.png")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"has files in masks, overlays and no segment\.json"):
            todo(outputs, pictures_of(photos), overwrite=overwrite)
    assert outputs.path("masks", "a.png").exists()
    (tmp_path / "out" / "segment.json").write_text("[]")
    with pytest.raises(InputError, match="is not the record of a run"):
        todo(outputs, pictures_of(photos))


def test_pictures_of_the_same_name_from_elsewhere(tmp_path: Path, photos: Path) -> None:
    outputs = outputs_in(tmp_path)
    todo(outputs, pictures_of(photos))
    write(outputs, "a.png")
    (tmp_path / "other").mkdir()
    for name in ("a", "z"):
        (tmp_path / "other" / f"{name}.png").write_text("of the other")
    with pytest.raises(InputError, match=r"masks/a\.png\.png is of .*photos/a\.png, not of .*other/a\.png: name another output"):
        todo(outputs, pictures_of(tmp_path / "other"))
    assert todo(outputs, pictures_of(tmp_path / "other" / "z.png")) == ["z.png"]
    assert todo(outputs, pictures_of(photos)) == ["b.png", "c.png"]


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"soft": ["certainty"]}, "soft=certainty: give a list of some of confidence, margin, entropy"),
        ({"soft": "margin"}, "soft=margin: give a list"),
        ({"top": 3}, "top=3: give a number from 0 to 2"),
        ({"masks": False, "overlays": False}, "nothing to write"),
    ],
)
def test_outputs_that_cannot_be(kinds: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Outputs(Path("out"), WORDS, **kinds)
