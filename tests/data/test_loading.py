"""Samplers, transforms and the data module: exact in evaluation, numbered and repeatable in training."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

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
    shown = {v for samples in data.val_dataloader() for sample in samples for v in sample["mask"].unique().tolist()}
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
    with pytest.raises(InputError, match=r"data.augmentation.crop=0"):
        TrainTransform(0)
    with pytest.raises(InputError, match=r"data.corruption='fog'"):
        module(textures_root, texture_classes, corruption="fog").val_dataloader()


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


def test_evaluation_in_lists_of_images_of_any_size(textures_root: Path, texture_classes: Vocabulary) -> None:
    alone = [sample for samples in module(textures_root, texture_classes).val_dataloader() for sample in samples]
    lists = list(module(textures_root, texture_classes, eval_batch=3).val_dataloader())
    assert [len(samples) for samples in lists] == [3, 2]
    assert [sample["name"] for samples in lists for sample in samples] == [sample["name"] for sample in alone]
    for sample, own in zip((sample for samples in lists for sample in samples), alone, strict=True):
        assert torch.equal(sample["image"], own["image"]) and torch.equal(sample["mask"], own["mask"])


def test_only_the_images_of_evaluation_are_spoiled(textures_root: Path, texture_classes: Vocabulary) -> None:
    clean = module(textures_root, texture_classes, batch_size=4)
    spoiled = module(textures_root, texture_classes, batch_size=4, corruption="gaussian_noise", severity=3)
    (one,), (other,) = (next(iter(data.val_dataloader())) for data in (clean, spoiled))
    assert torch.equal(one["mask"], other["mask"])
    difference = (one["image"].float() - other["image"].float()).abs().mean()
    assert 15 < difference < 60  # sigma is 0.18 of 255
    again = next(iter(module(textures_root, texture_classes, corruption="gaussian_noise", severity=3).val_dataloader()))[0]
    assert torch.equal(other["image"], again["image"])
    assert torch.equal(*(next(iter(data.train_dataloader()))["image"] for data in (clean, spoiled)))
