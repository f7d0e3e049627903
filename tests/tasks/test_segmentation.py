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
from maskclip.data.images import read_image, read_mask
from maskclip.inference import predict, predict_image
from maskclip.segmenting.inputs import Picture, find_pictures
from maskclip.segmenting.outputs import Outputs
from maskclip.tasks import Segmentation

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


@pytest.mark.parametrize(("batch", "num_workers"), [(1, 0), (8, 2)])
def test_three_broken_among_fifty(tmp_path: Path, tiny: MaskCLIP, batch: int, num_workers: int) -> None:
    photos = draw(tmp_path / "photos", 50)
    (photos / "007.png").write_bytes(b"")
    (photos / "020.png").write_text("no picture")
    (photos / "049.png").write_bytes((photos / "048.png").read_bytes()[:-200])
    outputs = Outputs(tmp_path / "out", tiny.vocabulary)
    task = run(tiny, outputs, find_pictures([str(photos)], outputs.folder), batch=batch, num_workers=num_workers)
    assert [picture.name for picture, _ in task.broken] == ["007", "020", "049"]
    assert all("cannot read the image" in why for _, why in task.broken)
    written = sorted(path.stem for path in (tmp_path / "out" / "masks").iterdir())
    assert len(written) == 47 and written == sorted(path.stem for path in (tmp_path / "out" / "overlays").iterdir())
    for name in written[::5]:
        with Image.open(outputs.path("masks", name)) as mask:
            expected = predict_image(tiny, Image.fromarray(read_image(photos / f"{name}.png")), PROTOCOL)
            assert mask.mode == "P" and (np.asarray(mask) != expected).mean() < 0.001  # a batch rounds otherwise


def test_soft_outputs_are_those_of_predict(tmp_path: Path, tiny: MaskCLIP) -> None:
    photos = draw(tmp_path / "photos", 1)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary, False, False, ["confidence", "margin", "entropy"], top=3, features=True)
    run(tiny, outputs, find_pictures([str(photos)], outputs.folder), num_workers=0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(outputs.kinds)
    image = torch.from_numpy(read_image(photos / "000.png")).permute(2, 0, 1)
    expected = predict(tiny, [image], PROTOCOL, outputs.soft, 3)[0]
    for kind, whole in (("confidence", 1.0), ("margin", 1.0), ("entropy", math.log(13))):
        with Image.open(outputs.path(kind, "000")) as grey:
            assert grey.mode == "I;16"
            torch.testing.assert_close(
                torch.from_numpy(np.asarray(grey) / 65535 * whole).float(), getattr(expected, kind), atol=whole / 65535, rtol=0
            )
    with np.load(outputs.path("top", "000")) as top:
        assert expected.top_classes is not None and expected.top_probabilities is not None
        assert top["top_classes"].dtype == np.uint8 and np.array_equal(top["top_classes"], expected.top_classes.numpy())
        assert np.array_equal(top["top_probabilities"], expected.top_probabilities.numpy().astype(np.float16))


def test_features_are_unit_and_make_the_labels(tmp_path: Path, tiny: MaskCLIP) -> None:
    photos = draw(tmp_path / "photos", 1)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary, features=True)
    run(tiny, outputs, find_pictures([str(photos)], outputs.folder), num_workers=0)
    with np.load(outputs.path("features", "000")) as stored:
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
    with pytest.raises(InputError, match="features=true needs a protocol that looks at an image once"):
        run(tiny, outputs, [], Protocol(flip=True))


def test_features_of_a_picture_that_is_too_large_for_one_look(tmp_path: Path, tiny: MaskCLIP) -> None:
    photos = draw(tmp_path / "photos", 1)
    outputs = Outputs(tmp_path / "out", tiny.vocabulary, features=True)
    run(tiny, outputs, find_pictures([str(photos)], outputs.folder), Protocol(short_side=80, max_pixels=48 * 40), num_workers=0)
    with np.load(outputs.path("features", "000")) as stored:
        assert stored["input_size"].tolist() == [40, 48] and tuple(stored["covered_size"]) == tiny.covered_size(40, 48)
    assert read_mask(outputs.path("masks", "000")).shape == (40, 48)


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
        run(tiny, outputs, find_pictures([str(photos)], outputs.folder), num_workers=0, num_writers=1)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 5 and not any(path.name.startswith(".") for path in files)


def test_nothing_to_do(tmp_path: Path, tiny: MaskCLIP) -> None:
    assert run(tiny, Outputs(tmp_path / "out", tiny.vocabulary), []).broken == []


@pytest.mark.parametrize("kind", [InputError, OSError, ZeroDivisionError])
def test_what_prepare_cannot_do_is_said(tmp_path: Path, tiny: MaskCLIP, kind: type[Exception]) -> None:
    def prepare() -> list[Picture]:
        raise kind("no such place")

    task = Segmentation(tiny, PROTOCOL, Outputs(tmp_path / "out", tiny.vocabulary), prepare)
    with pytest.raises(kind, match="no such place"):
        pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False).predict(task)


@pytest.mark.parametrize("option", ["batch", "num_workers", "num_writers"])
def test_numbers_that_cannot_be(tmp_path: Path, tiny: MaskCLIP, option: str) -> None:
    with pytest.raises(InputError, match=rf"{option}=-1: give a number"):
        Segmentation(tiny, PROTOCOL, Outputs(tmp_path / "out", tiny.vocabulary), list, **{option: -1})
