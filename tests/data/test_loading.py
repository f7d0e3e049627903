"""Samplers, transforms and the data module: exact in evaluation, numbered and repeatable in training."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskclip import InputError, Vocabulary
from maskclip.data.datamodule import SegmentationData
from maskclip.data.samplers import EveryNth, NumberedDraws
from maskclip.data.transforms import TrainTransform


@pytest.mark.parametrize(("images", "world"), [(5, 2), (4, 2), (7, 3), (2, 4)])
def test_evaluation_sees_every_image_once(images: int, world: int) -> None:
    seen = Counter(index for rank in range(world) for index in EveryNth(range(images), rank, world))
    assert seen == Counter(range(images))


def test_training_goes_through_all_images_before_any_comes_again() -> None:
    draws = list(islice(NumberedDraws(range(7), seed=3, batch=2), 21))
    assert [draw.number for draw in draws] == list(range(21))
    for epoch in range(3):
        assert sorted(draw.image for draw in draws[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert [d.image for d in draws[:7]] != [d.image for d in draws[7:14]]


def test_draws_do_not_depend_on_processes_or_restarts() -> None:
    alone = list(islice(NumberedDraws(range(10), seed=0, batch=4), 24))
    two = [list(islice(NumberedDraws(range(10), seed=0, batch=2, rank=rank, world=2), 12)) for rank in (0, 1)]
    merged = [draw for step in range(6) for rank in (0, 1) for draw in two[rank][2 * step : 2 * step + 2]]
    assert merged == alone
    assert list(islice(NumberedDraws(range(10), seed=0, batch=4, start=8), 16)) == alone[8:]
    done = 0
    moving = NumberedDraws(range(10), seed=0, batch=4, start=lambda: done)
    assert next(iter(moving)) == alone[0]
    done = 12
    assert next(iter(moving)) == alone[12]


def picture() -> tuple[np.ndarray, np.ndarray]:
    """An image whose red channel is ten times its mask, so that any misalignment shows."""
    mask = np.random.default_rng(0).integers(0, 20, (40, 60), dtype=np.uint8).repeat(3, 0).repeat(3, 1)
    image = np.stack([mask * 10, mask, mask], axis=2)
    return image, mask


def test_image_and_mask_stay_aligned_to_the_pixel() -> None:
    image, mask = picture()
    for number in range(20):
        crop, labels = TrainTransform(64, scale=(1.0, 1.0), colour=False)(image, mask, number)
        assert crop.shape == (64, 64, 3)
        assert np.array_equal(crop[..., 0], labels * 10)


def test_the_number_of_the_draw_decides_the_crop() -> None:
    image, mask = picture()
    one, other = TrainTransform(64, seed=1), TrainTransform(64, seed=1)
    other(image, mask, 5)  # history must not matter
    first, again = one(image, mask, 9), other(image, mask, 9)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], one(image, mask, 10)[0])
    assert not np.array_equal(first[0], TrainTransform(64, seed=2)(image, mask, 9)[0])


def test_what_lies_beyond_the_image_is_ignored() -> None:
    image, mask = picture()
    crop, labels = TrainTransform(256, scale=(1.0, 1.0), colour=False)(image, mask, 0)
    assert (labels[120:] == 255).all() and (labels[:, 180:] == 255).all()
    assert (labels[:120, :180] != 255).all() and (crop[120:] == 0).all()


@pytest.mark.parametrize(("side", "expected"), [("short", (64, 96)), ("long", (43, 64))])
def test_first_size(side: str, expected: tuple[int, int]) -> None:
    image, mask = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), np.uint8)
    _, labels = TrainTransform(128, size=64, side=side, scale=(1.0, 1.0), colour=False)(image, mask, 0)
    rows, columns = (labels != 255).any(1).sum(), (labels != 255).any(0).sum()
    assert (rows, columns) == expected


def module(root: Path, classes: Vocabulary, **options: Any) -> SegmentationData:
    files = {
        "images": "JPEGImages/{}.jpg",
        "masks": "SegmentationClass/{}.png",
        "train": "ImageSets/Segmentation/train.txt",
        "val": "ImageSets/Segmentation/val.txt",
    }
    return SegmentationData(classes, root=str(root), augmentation={"crop": 64}, num_workers=0, **{**files, **options})


@pytest.mark.parametrize("labels", ["none", "oracle_ignore", "seen", "all"])
def test_hidden_labels_never_leave_the_training_set(textures_root: Path, texture_classes: Vocabulary, labels: str) -> None:
    data = module(textures_root, texture_classes, labels=labels, batch_size=6)
    batches = list(islice(data.train_dataloader(), 4))
    values = set(torch.cat([batch["mask"].flatten() for batch in batches]).unique().tolist())
    unseen = set(texture_classes.unseen_indices)
    assert batches[0]["image"].shape == (6, 3, 64, 64)
    if labels in ("none", "oracle_ignore"):
        assert values <= {-1, 255}
    if labels == "seen":
        assert not values & unseen and -1 in values
    if labels == "all":
        assert values & unseen and -1 not in values
    shown = {v for batch in data.val_dataloader() for v in batch["mask"].unique().tolist()}
    assert shown & unseen and -1 not in shown


def test_batches_come_out_the_same_with_workers(textures_root: Path, texture_classes: Vocabulary) -> None:
    alone = next(iter(module(textures_root, texture_classes, batch_size=6).train_dataloader()))
    data = module(textures_root, texture_classes, batch_size=6)
    data.num_workers = 2
    with_workers = next(iter(data.train_dataloader()))
    assert torch.equal(alone["image"], with_workers["image"]) and alone["name"] == with_workers["name"]


def test_bad_settings(textures_root: Path, texture_classes: Vocabulary) -> None:
    with pytest.raises(InputError, match=r"data.labels='some': choose one of"):
        module(textures_root, texture_classes, labels="some")
    with pytest.raises(InputError, match="needs unseen classes"):
        module(textures_root, Vocabulary(["cat"]), labels="seen")
    with pytest.raises(InputError, match=r"data.labels=all needs masks"):
        module(textures_root, texture_classes, masks=None)
    with pytest.raises(InputError, match="BatchNorm needs two"):
        module(textures_root, texture_classes, batch_size=1).train_dataloader()
    with pytest.raises(InputError, match=r"data.augmentation.side='tall'"):
        TrainTransform(64, side="tall")


def test_an_error_of_a_worker_is_the_sentence_alone(textures_root: Path, texture_classes: Vocabulary) -> None:
    data = module(textures_root, texture_classes, masks="nowhere/{}.png")
    data.num_workers = 1
    with pytest.raises(InputError) as error:
        next(iter(data.val_dataloader()))
    assert str(error.value).startswith("no such mask: ") and "\n" not in str(error.value)


def test_without_masks_there_is_nothing_to_validate(textures_root: Path, texture_classes: Vocabulary) -> None:
    data = module(textures_root, texture_classes, masks=None, labels="none", batch_size=4)
    assert data.val_dataloader() == []
    assert (next(iter(data.train_dataloader()))["mask"] <= 255).all()
