"""The task that segments pictures, in this process: everything but the program around it."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from maskclip import InputError, MaskCLIP, Protocol
from maskclip.images.reading import read_image, read_mask
from maskclip.inference.labels import Prediction
from maskclip.inference.predict import predict, predict_image
from maskclip.segmenting.inputs import Picture, find_pictures, with_pages
from maskclip.segmenting.outputs import Outputs
from maskclip.tasks import Segmentation
from maskclip.tasks.segmentation import MOST_IN_A_ROW

PROTOCOL = Protocol(short_side=48)


def draw(folder: Path, count: int) -> Path:
    """Small pictures of several sizes, each different."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        size = (48 + 8 * (number % 3), 40)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return folder


def run(model: MaskCLIP, outputs: Outputs, pictures: list[Picture], protocol: Protocol = PROTOCOL, **options: Any) -> Segmentation:
    task = Segmentation(model, protocol, outputs, lambda: pictures, **options)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "use_distributed_sampler": False}
    pl.Trainer(accelerator="cpu", devices=1, **quiet).predict(task, return_predictions=False)
    return task


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (8, 2)])
def test_three_broken_among_fifty(tmp_path: Path, tiny: MaskCLIP, batch_size: int, num_workers: int) -> None:
    photos = draw(tmp_path / "photos", 50)
    (photos / "007.png").write_bytes(b"")
    (photos / "020.png").write_text("no picture")
    (photos / "049.png").write_bytes((photos / "048.png").read_bytes()[:-200])
    outputs = Outputs(tmp_path / "out", tiny.vocabulary)
    task = run(tiny, outputs, find_pictures([str(photos)], outputs.folder)[0], batch_size=batch_size, num_workers=num_workers)
    assert [picture.name for picture, _ in task.broken] == ["007.png", "020.png", "049.png"]
    assert all("cannot read the image" in why for _, why in task.broken)
    written = sorted(path.stem for path in (tmp_path / "out" / "masks").iterdir())
    assert len(written) == 47 and written == sorted(path.stem for path in (tmp_path / "out" / "overlays").iterdir())
    for name in written[::5]:
        with Image.open(outputs.path("masks", name)) as mask:
            expected = predict_image(tiny, Image.fromarray(read_image(photos / name)), PROTOCOL)
            assert mask.mode == "P" and (np.asarray(mask) != expected).mean() < 0.001  # a batch rounds otherwise


def test_soft_outputs_are_those_of_predict(tmp_path: Path, tiny: MaskCLIP) -> None:
    photos = draw(tmp_path / "photos", 1)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary, False, False, ["confidence", "margin", "entropy"], top=3, features=True)
    run(tiny, outputs, find_pictures([str(photos)], outputs.folder)[0], num_workers=0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(outputs.kinds)
    image = torch.from_numpy(read_image(photos / "000.png")).permute(2, 0, 1)
    expected = predict(tiny, [image], PROTOCOL, outputs.soft, 3)[0]
    for kind, whole in (("confidence", 1.0), ("margin", 1.0), ("entropy", math.log(13))):
        with Image.open(outputs.path(kind, "000.png")) as grey:
            assert grey.mode in ("I;16", "I")  # Pillow before 10.2
            torch.testing.assert_close(
                torch.from_numpy(np.asarray(grey) / 65535 * whole).float(), getattr(expected, kind), atol=whole / 65535, rtol=0
            )
    with np.load(outputs.path("top", "000.png")) as top:
        assert expected.top_classes is not None and expected.top_probabilities is not None
        assert top["top_classes"].dtype == np.uint8 and np.array_equal(top["top_classes"], expected.top_classes.numpy())
        assert np.array_equal(top["top_probabilities"], expected.top_probabilities.numpy().astype(np.float16))


def test_features_are_unit_and_make_the_labels(tmp_path: Path, tiny: MaskCLIP) -> None:
    photos = draw(tmp_path / "photos", 1)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary, features=True)
    run(tiny, outputs, find_pictures([str(photos)], outputs.folder)[0], num_workers=0)
    with np.load(outputs.path("features", "000.png")) as stored:
        features = torch.from_numpy(stored["features"].astype(np.float32))
        height, width = stored["input_size"].tolist()
        assert tuple(stored["covered_size"]) == tiny.covered_size(height, width)
    assert (height, width) == PROTOCOL.input_sizes(40, 48)[0]
    torch.testing.assert_close(features.norm(dim=0), torch.ones(features.shape[1:]), atol=2e-3, rtol=0)
    image = torch.from_numpy(read_image(photos / "000.png")).permute(2, 0, 1)[None] / 255
    seen = torch.nn.functional.interpolate(image, size=(height, width), mode="bilinear")
    words = torch.tensordot(tiny.text_embeddings, features, 1)
    counts = tiny.vocabulary.word_counts
    classes = torch.stack([part.amax(dim=0) for part in words.split(counts)])
    torch.testing.assert_close(classes, tiny(seen)[0], atol=2e-3, rtol=0)
    with pytest.raises(InputError, match="features=true needs a protocol with a single view"):
        run(tiny, outputs, [], Protocol(flip=True))


def test_features_of_a_picture_that_is_too_large_for_one_look(tmp_path: Path, tiny: MaskCLIP) -> None:
    photos = draw(tmp_path / "photos", 1)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary, features=True)
    run(tiny, outputs, find_pictures([str(photos)], outputs.folder)[0], Protocol(short_side=80, max_pixels=48 * 40), num_workers=0)
    with np.load(outputs.path("features", "000.png")) as stored:
        assert stored["input_size"].tolist() == [40, 48] and tuple(stored["covered_size"]) == tiny.covered_size(40, 48)
    assert read_mask(outputs.path("masks", "000.png")).shape == (40, 48)


def test_a_full_disk_stops_the_run_with_a_sentence(tmp_path: Path, tiny: MaskCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = draw(tmp_path / "photos", 12)
    real, room = Image.Image.save, iter(range(5))

    def save(*arguments: Any, **options: Any) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary)
    with pytest.raises(InputError, match=r"the disk is full, at .*out/.*: free some space and run again"):
        run(tiny, outputs, find_pictures([str(photos)], outputs.folder)[0], num_workers=0, num_writers=1)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 5 and not any(path.name.startswith(".") for path in files)


def test_the_overlay_of_an_image_that_jpeg_cannot_hold_is_scaled_down(tmp_path: Path, tiny: MaskCLIP) -> None:
    pixels, labels = np.zeros((4, 65600, 3), np.uint8), torch.zeros(4, 65600, dtype=torch.uint8)
    outputs = Outputs(tmp_path, tiny.vocabulary)
    assert outputs.write("wide.png", pixels, Prediction(labels)) == ""
    assert read_mask(outputs.path("masks", "wide.png")).shape == (4, 65600)
    with Image.open(outputs.path("overlays", "wide.png")) as overlay:
        assert overlay.size == (65500, 4)


def test_an_image_whose_outputs_cannot_be_written_does_not_stop_the_others(tmp_path: Path, tiny: MaskCLIP) -> None:
    photos, long = draw(tmp_path / "photos", 3), f"{'x' * 249}.png"
    (photos / "001.png").rename(photos / long)
    (tmp_path / "out" / "overlays" / "002.png.jpg").mkdir(parents=True)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary)
    task = run(tiny, outputs, find_pictures([str(photos)], outputs.folder)[0], num_workers=0)
    assert [(picture.name, why[:12]) for picture, why in task.broken] == [("002.png", "cannot write"), (long, "cannot write")]
    assert "Is a directory: rename the image, or name its outputs in a list" in task.broken[0][1]
    assert task.broken[1][1].count("File name too long") == 2
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written == ["masks/000.png.png", "masks/002.png.png", "overlays/000.png.jpg"]


def test_an_encoder_that_fails_does_not_stop_the_others(tmp_path: Path, tiny: MaskCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, real, calls = draw(tmp_path / "photos", 4), Image.Image.save, iter(range(100))

    def save(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        if (call := next(calls)) in (2, 5):
            raise (OSError("encoder error -2 when writing image file"), MemoryError())[call == 5]

    monkeypatch.setattr(Image.Image, "save", save)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary)
    task = run(tiny, outputs, find_pictures([str(photos)], outputs.folder)[0], num_workers=0, num_writers=1)
    assert [picture.name for picture, _ in task.broken] == ["001.png", "002.png"]
    assert "masks/001.png.png: OSError: encoder error -2" in task.broken[0][1] and "MemoryError" in task.broken[1][1]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 6 and not any(path.name.startswith(".") for path in files)


class Picky(torch.nn.Module):
    """A model that fails for images of some widths, as one does whose memory is short."""

    def __init__(self, model: MaskCLIP, widths: set[int]) -> None:
        super().__init__()
        self.model, self.widths = model, widths

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "model" else getattr(self.model, name)

    def forward(self, image: torch.Tensor, **options: Any) -> Any:
        if image.shape[3] in self.widths:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.model(image, **options)


@pytest.mark.parametrize("batch_size", [1, 6])
def test_an_image_that_the_network_cannot_take_does_not_stop_the_others(tmp_path: Path, tiny: MaskCLIP, batch_size: int) -> None:
    photos = draw(tmp_path / "photos", 6)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary)
    task = run(
        Picky(tiny, {56}), outputs, find_pictures([str(photos)], outputs.folder)[0], Protocol(), batch_size=batch_size, num_workers=0
    )
    assert [picture.name for picture, _ in task.broken] == ["001.png", "004.png"]
    assert task.broken[0][1] == f"cannot segment {photos / '001.png'}: RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == [f"00{i}.png.png" for i in (0, 2, 3, 5)]


def test_a_network_that_can_take_no_image_stops_the_run(tmp_path: Path, tiny: MaskCLIP) -> None:
    photos = draw(tmp_path / "photos", MOST_IN_A_ROW + 2)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(Picky(tiny, {48, 56, 64}), outputs, find_pictures([str(photos)], outputs.folder)[0], Protocol(), num_workers=0)


@pytest.mark.parametrize(("pages", "written", "several"), [("first", 2, ["scan.tif"]), ("all", 4, [])])
def test_pages(tmp_path: Path, tiny: MaskCLIP, pages: str, written: int, several: list[str]) -> None:
    photos = draw(tmp_path / "photos", 1)
    greys = [Image.fromarray(np.random.default_rng(page).integers(0, 256, (40, 48), np.uint8)) for page in range(3)]
    greys[0].save(photos / "scan.tif", save_all=True, append_images=greys[1:])
    outputs = Outputs(tmp_path / "out", tiny.vocabulary)
    pictures = find_pictures([str(photos)], outputs.folder)[0]
    task = run(tiny, outputs, with_pages(pictures) if pages == "all" else pictures, num_workers=0, pages=pages)
    assert task.several_pages == several and len(list((tmp_path / "out" / "masks").iterdir())) == written
    if pages == "all":
        third = predict_image(tiny, greys[2], PROTOCOL)
        assert np.array_equal(read_mask(outputs.path("masks", "scan.tif.page-0003")), third)


def test_nothing_to_do(tmp_path: Path, tiny: MaskCLIP) -> None:
    assert run(tiny, Outputs(tmp_path / "out", tiny.vocabulary), []).broken == []


@pytest.mark.parametrize("kind", [InputError, OSError, ZeroDivisionError])
def test_what_prepare_cannot_do_is_said(tmp_path: Path, tiny: MaskCLIP, kind: type[Exception]) -> None:
    def prepare() -> list[Picture]:
        raise kind("no such place")

    task = Segmentation(tiny, PROTOCOL, Outputs(tmp_path / "out", tiny.vocabulary), prepare)
    with pytest.raises(kind, match="no such place"):
        pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False).predict(task)


@pytest.mark.parametrize("option", ["batch_size", "num_workers", "num_writers"])
def test_numbers_that_cannot_be(tmp_path: Path, tiny: MaskCLIP, option: str) -> None:
    with pytest.raises(InputError, match=rf"{option}=-1: give a number"):
        Segmentation(tiny, PROTOCOL, Outputs(tmp_path / "out", tiny.vocabulary), list, **{option: -1})
