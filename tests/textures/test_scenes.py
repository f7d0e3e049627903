"""Synthetic scenes: exact masks, seeds, captions, and classes that the colour of a pixel does not reveal."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from maskclip import InputError, Vocabulary
from maskclip.evaluation.scores import iou_of
from maskclip.files import CHECKOUT
from maskclip.images.reading import read_image, read_mask
from maskclip.textures.dataset import write_textures
from maskclip.textures.scenes import CLASSES, caption, draw_close_up, draw_scene, stream

THINGS = {i for i, texture in enumerate(CLASSES) if texture.thing}


def test_classes_equal_those_of_the_config(texture_classes: Vocabulary) -> None:
    assert list(texture_classes.names) == [texture.name for texture in CLASSES]
    assert texture_classes.words == [list(texture.words) for texture in CLASSES]
    assert len(THINGS) >= 8 and len(CLASSES) - len(THINGS) >= 4


@pytest.mark.parametrize("seed", range(8))
def test_scenes_have_stuff_and_things_and_exact_masks(seed: int) -> None:
    scene = draw_scene(np.random.default_rng(seed), (96, 112))
    assert scene.image.shape == (96, 112, 3) and scene.mask.shape == (96, 112)
    present = set(np.unique(scene.mask).tolist())
    assert present - {255} <= set(range(len(CLASSES)))
    assert 1 <= len((present - {255}) - THINGS) <= 2
    assert 1 <= len(present & THINGS) <= 3
    assert 0 < (scene.mask == 255).mean() < 0.15


def test_outlines_of_things_are_ignored() -> None:
    mask = draw_scene(np.random.default_rng(3), (96, 96)).mask
    for a, b in ((mask[:, 1:], mask[:, :-1]), (mask[1:], mask[:-1])):
        differ = (a != b) & (a != 255) & (b != 255)
        assert not np.isin(a[differ], list(THINGS)).any() and not np.isin(b[differ], list(THINGS)).any()


def test_the_same_seed_draws_the_same_stream() -> None:
    first, again, other = (list(islice(stream(seed, (48, 48)), 6)) for seed in (5, 5, 6))
    assert all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, again, strict=True))
    assert any(a[1] != b[1] for a, b in zip(first, other, strict=True))


def test_captions_name_the_visible_classes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        classes = [int(i) for i in rng.choice(len(CLASSES), 3, replace=False)]
        sentence = caption(rng, classes, omit=0)
        assert all(any(re.search(rf"\b{word}\b", sentence) for word in CLASSES[i].words) for i in classes)
        others = set(range(len(CLASSES))) - set(classes)
        assert not any(re.search(rf"\b{word}\b", sentence) for i in others for word in CLASSES[i].words)
    shorter = [caption(rng, [5, 6], omit=1.0) for _ in range(20)]
    assert all(("zebra" in s) != ("chessboard" in s) for s in shorter)


def colour_cells(image: np.ndarray) -> np.ndarray:
    """Each pixel's cell in a histogram of 16 x 16 x 16 colours."""
    cells = image.astype(int) // 16
    return cells[..., 0] * 256 + cells[..., 1] * 16 + cells[..., 2]


def test_the_colour_of_a_pixel_does_not_reveal_its_class() -> None:
    """The best classifier of single pixels, the most frequent class of each colour, has a low mIoU."""
    rng, count = np.random.default_rng(0), len(CLASSES)
    histogram = np.zeros((4096, count))
    for _ in range(400):
        scene = draw_close_up(rng, (48, 48))
        np.add.at(histogram, (colour_cells(scene.image).ravel(), scene.mask.ravel()), 1)
    best = histogram.argmax(1)
    confusion = np.zeros((count, count))
    for _ in range(100):
        scene = draw_scene(rng, (96, 96))
        valid = scene.mask != 255
        np.add.at(confusion, (scene.mask[valid], best[colour_cells(scene.image)[valid]]), 1)
    assert iou_of(torch.from_numpy(confusion)).nanmean() < 0.33


def test_the_data_set_on_disk(tmp_path: Path) -> None:
    palette = [(i, 0, 255 - i) for i in range(len(CLASSES))]
    assert write_textures(tmp_path, palette, train=3, val=2, seed=7) == {"train": 3, "val": 2}
    names = (tmp_path / "ImageSets/Segmentation/train.txt").read_text().split()
    assert len(names) == 3
    image = read_image(tmp_path / "JPEGImages" / f"{names[0]}.jpg")
    mask = read_mask(tmp_path / "SegmentationClass" / f"{names[0]}.png")
    assert image.shape[:2] == mask.shape
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    write_textures(tmp_path, palette, train=3, val=2, seed=7)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_scale_multiplies_the_sides_of_images(tmp_path: Path) -> None:
    for scale in (1, 2):
        write_textures(tmp_path / str(scale), [(0, 0, 0)] * len(CLASSES), train=1, val=1, scale=scale)
    small, large = (read_image(tmp_path / str(scale) / "JPEGImages" / "val_00000.jpg") for scale in (1, 2))
    assert large.shape[:2] == (2 * small.shape[0], 2 * small.shape[1])
    with pytest.raises(InputError, match="scale=0: give a whole number"):
        write_textures(tmp_path, [], scale=0)


def test_prepare_script(tmp_path: Path, compose_cfg: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "textures"
    monkeypatch.setattr(sys, "argv", ["prepare_textures.py", "--root", str(root), "--train", "1", "--val", "1"])
    runpy.run_path(str(CHECKOUT / "scripts" / "prepare_textures.py"), run_name="__main__")
    cfg = compose_cfg("eval", "data=textures")
    assert (root / cfg.data.val).is_file() and (root / cfg.data.train).is_file()
