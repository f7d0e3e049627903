"""Resuming a run of segmenting: finished images are skipped, other settings are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from maskclip import InputError, Vocabulary
from maskclip.segmenting.inputs import InputImage, find_inputs, with_pages
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


def make_outputs(tmp_path: Path, **kinds: Any) -> Outputs:
    return Outputs(tmp_path / "out", WORDS, **kinds)


def images_of(*sources: Path) -> list[InputImage]:
    return find_inputs([str(source) for source in sources], Path("/nowhere"))[0]


def write(outputs: Outputs, *names: str) -> None:
    for name in names:
        for kind in outputs.kinds:
            outputs.path(kind, name).parent.mkdir(parents=True, exist_ok=True)
            outputs.path(kind, name).write_text("")


def todo(outputs: Outputs, images: list[InputImage], overwrite: bool = False, **settings: Any) -> list[str]:
    return [image.name for image in prepare(outputs, images, SETTINGS | settings, overwrite)]


def test_finished_images_are_skipped(tmp_path: Path, photos: Path) -> None:
    outputs, images = make_outputs(tmp_path), images_of(photos)
    assert todo(outputs, images) == ["a.png", "b.png", "c.png"]
    write(outputs, "a.png", "c.png")
    assert todo(outputs, images) == ["b.png"]
    outputs.path("overlays", "c.png").unlink()
    assert todo(outputs, images) == ["b.png", "c.png"]
    assert todo(make_outputs(tmp_path, overlays=False), images) == ["b.png"]
    assert todo(make_outputs(tmp_path, soft=["margin"]), images) == ["a.png", "b.png", "c.png"]


def test_a_changed_image_is_redone(tmp_path: Path, photos: Path) -> None:
    outputs, images = make_outputs(tmp_path), images_of(photos)
    todo(outputs, images)
    write(outputs, "a.png", "b.png", "c.png")
    os.utime(photos / "b.png", (1000, 1000))  # as cp -p writes it: older than the outputs
    (photos / "c.png").write_text("more")
    assert todo(outputs, images) == ["b.png", "c.png"]
    assert not outputs.path("masks", "b.png").exists(), "a kill from here on would leave it beside a record of the new image"
    write(outputs, "b.png", "c.png")
    assert todo(outputs, images) == []


def test_a_truncated_record(tmp_path: Path, photos: Path) -> None:
    outputs, images = make_outputs(tmp_path), images_of(photos)
    todo(outputs, images)
    write(outputs, "a.png", "b.png", "c.png")
    record = tmp_path / "out" / SOURCES
    record.write_text(record.read_text()[:-20])
    assert todo(outputs, images) == ["c.png"]
    write(outputs, "c.png")
    assert todo(outputs, images) == []


def test_moved_images_are_finished(tmp_path: Path, photos: Path) -> None:
    outputs = make_outputs(tmp_path)
    todo(outputs, images_of(photos))
    write(outputs, "a.png", "b.png", "c.png")
    moved = photos.rename(tmp_path / "moved")
    assert todo(outputs, images_of(moved)) == []
    (moved / "a.png").write_text("changed there")
    assert todo(outputs, images_of(moved)) == ["a.png"]


def test_names_do_not_depend_on_other_images(tmp_path: Path, photos: Path) -> None:
    outputs = make_outputs(tmp_path)
    (photos / "a.jpg").write_text("another")
    assert todo(outputs, images_of(photos / "a.jpg")) == ["a.jpg"]
    write(outputs, "a.jpg")
    assert todo(outputs, images_of(photos)) == ["a.png", "b.png", "c.png"]
    write(outputs, "a.png", "b.png", "c.png")
    (photos / "a.png").unlink()
    assert todo(outputs, images_of(photos)) == []


def test_outputs_of_an_earlier_version_are_refused(tmp_path: Path, photos: Path) -> None:
    outputs, images = make_outputs(tmp_path), images_of(photos)
    write(outputs, "a")
    (tmp_path / "out" / "segment.json").write_text(json.dumps({"settings": SETTINGS}))
    with pytest.raises(InputError, match=r"another version of this program with other file names: .*overwrite=true"):
        todo(outputs, images)
    assert todo(outputs, images, overwrite=True) == ["a.png", "b.png", "c.png"]
    assert not outputs.path("masks", "a").exists()


def test_further_pages_are_added_to_first_ones(tmp_path: Path, photos: Path) -> None:
    pages = [Image.new("L", (8, 6), 40 * page) for page in range(3)]
    pages[0].save(photos / "a.tif", save_all=True, append_images=pages[1:])
    outputs, images = make_outputs(tmp_path), images_of(photos / "a.tif")
    assert todo(outputs, images) == ["a.tif"]
    write(outputs, "a.tif")
    assert todo(outputs, with_pages(images)) == ["a.tif.page-0002", "a.tif.page-0003"]
    write(outputs, "a.tif.page-0002", "a.tif.page-0003")
    assert todo(outputs, with_pages(images)) == [] == todo(outputs, images)


def test_a_name_that_is_too_long_is_still_to_be_done(tmp_path: Path, photos: Path) -> None:
    (photos / f"{'x' * 250}.png").write_text("")
    outputs = make_outputs(tmp_path)
    for _ in range(2):
        assert f"{'x' * 250}.png" in todo(outputs, images_of(photos))


def test_a_missing_image_keeps_its_outputs(tmp_path: Path, photos: Path) -> None:
    outputs, images = make_outputs(tmp_path), images_of(photos)
    todo(outputs, images)
    write(outputs, "a.png", "b.png", "c.png")
    content = (photos / "b.png").stat()
    (photos / "b.png").unlink()
    assert todo(outputs, images) == ["b.png"] and outputs.path("masks", "b.png").exists()
    (photos / "b.png").write_text("")
    os.utime(photos / "b.png", ns=(content.st_mtime_ns, content.st_mtime_ns))
    assert todo(outputs, images) == []


def test_other_settings_are_refused_without_overwrite(tmp_path: Path, photos: Path) -> None:
    outputs, images = make_outputs(tmp_path), images_of(photos)
    todo(outputs, images)
    write(outputs, "a.png", "b.png", "c.png")
    (tmp_path / "out" / "masks" / "notes.txt").write_text("of a person")
    (tmp_path / "out" / "broken.txt").write_text("# of an earlier run\n")
    with pytest.raises(InputError, match=r'classes.names was \["cat", "sky"\], is \["cat"\]; protocol.flip was null, is true\): use'):
        todo(outputs, images, **{"classes.names": ["cat"], "protocol.flip": True})
    assert todo(outputs, images, overwrite=True, **{"classes.names": ["cat"]}) == ["a.png", "b.png", "c.png"]
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {"notes.txt", "legend.json", "legend.png", "segment.json", "sources.jsonl"}
    assert json.loads((tmp_path / "out" / "segment.json").read_text())["settings"]["classes.names"] == ["cat"]


def test_the_legend_describes_all_folders_with_outputs(tmp_path: Path, photos: Path) -> None:
    images, legend = images_of(photos), tmp_path / "out" / "legend.json"
    todo(make_outputs(tmp_path, soft=["margin"]), images)
    write(make_outputs(tmp_path, soft=["margin"]), "a.png")
    todo(make_outputs(tmp_path), images)
    assert list(json.loads(legend.read_text())["files"]) == ["masks/*.png", "overlays/*.jpg", "margin/*.png"]
    todo(make_outputs(tmp_path, overlays=False), images, overwrite=True)
    assert list(json.loads(legend.read_text())["files"]) == ["masks/*.png"]


def test_top_may_be_added_or_dropped_but_not_changed(tmp_path: Path, photos: Path) -> None:
    images = images_of(photos)
    todo(make_outputs(tmp_path), images)
    todo(make_outputs(tmp_path, top=2), images, top=2)
    todo(make_outputs(tmp_path), images)
    with pytest.raises(InputError, match="top was 2, is 1"):
        todo(make_outputs(tmp_path, top=1), images, top=1)


def test_a_kill_while_old_outputs_are_removed(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, images = make_outputs(tmp_path), images_of(photos)
    todo(outputs, images)
    write(outputs, "a.png", "b.png", "c.png")
    real = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".png":
            raise KeyboardInterrupt
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            todo(outputs, images, overwrite=True, **{"protocol.short_side": 100})
    with pytest.raises(InputError, match="use overwrite=true again"):
        todo(outputs, images, **{"protocol.short_side": 100})
    assert len(todo(outputs, images, overwrite=True, **{"protocol.short_side": 100})) == 3


def test_files_of_other_programs_are_left_alone(tmp_path: Path, photos: Path) -> None:
    outputs = make_outputs(tmp_path)
    write(outputs, "a.png")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"has files in masks, overlays but no segment\.json"):
            todo(outputs, images_of(photos), overwrite=overwrite)
    assert outputs.path("masks", "a.png").exists()
    (tmp_path / "out" / "segment.json").write_text("[]")
    with pytest.raises(InputError, match="is not the record of a run"):
        todo(outputs, images_of(photos))


def test_images_of_the_same_name_from_another_folder(tmp_path: Path, photos: Path) -> None:
    outputs = make_outputs(tmp_path)
    todo(outputs, images_of(photos))
    write(outputs, "a.png")
    (tmp_path / "other").mkdir()
    for name in ("a", "z"):
        (tmp_path / "other" / f"{name}.png").write_text("of the other")
    with pytest.raises(InputError, match=r"masks/a\.png\.png was made from .*photos/a\.png, not from .*other/a\.png: use another output"):
        todo(outputs, images_of(tmp_path / "other"))
    assert todo(outputs, images_of(tmp_path / "other" / "z.png")) == ["z.png"]
    assert todo(outputs, images_of(photos)) == ["b.png", "c.png"]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"soft": ["certainty"]}, "soft=certainty: give a list of some of confidence, margin, entropy"),
        ({"soft": "margin"}, "soft=margin: give a list"),
        ({"top": 3}, "top=3: give a number from 0 to 2"),
        ({"masks": False, "overlays": False}, "nothing to write"),
    ],
)
def test_invalid_outputs(kinds: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Outputs(Path("out"), WORDS, **kinds)
