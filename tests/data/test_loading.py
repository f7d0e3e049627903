"""Samplers, transforms and the data module: exact in evaluation, numbered and repeatable in training."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskclip import InputError, Vocabulary
from maskclip.data.datamodule import SegmentationData
from maskclip.data.dataset import SegmentationDataset
from maskclip.data.samplers import EveryNth, NumberedDraws
from maskclip.data.transforms import TrainTransform
from maskclip.images import reading as images


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
        "images": "JPEGImages/%.jpg",
        "masks": "SegmentationClass/%.png",
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
    data = module(textures_root, texture_classes, masks="nowhere/%.png")
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
    lists = list(module(textures_root, texture_classes, eval_batch_size=3).val_dataloader())
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


@pytest.fixture
def by_folder(tmp_path: Path) -> dict[str, Any]:
    """Images and masks in one folder for each split, as in CamVid."""
    for split, label in (("train", 0), ("val", 1), ("test", 2)):
        for i in range(3):
            for folder, pixels in ((split, np.zeros((6, 8, 3), np.uint8)), (f"{split}annot", np.full((6, 8), label, np.uint8))):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    patterns = {key: {s: f"{s}{end}/%.png" for s in ("train", "val", "test")} for key, end in (("images", ""), ("masks", "annot"))}
    return {
        "classes": ["sky", "road", "car"],
        "root": str(tmp_path),
        "num_workers": 0,
        "batch_size": 2,
        "augmentation": {"crop": 8},
        **patterns,
    }


@pytest.mark.parametrize(("split", "label"), [("train", 0), ("val", 1), ("test", 2)])
def test_patterns_by_split(by_folder: dict[str, Any], split: str, label: int) -> None:
    data = SegmentationData(**by_folder, split=split)
    (batch,) = list(data.test_dataloader())[:1]
    assert len(data.dataset(split)) == 3 and (batch[0]["mask"] == label).all()
    (validation,) = list(data.val_dataloader())[:1]
    assert (validation[0]["mask"] == 1).all()


def test_a_split_that_is_not_described(by_folder: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"data\.split=tests: choose train, val or test"):
        SegmentationData(**by_folder, split="tests")
    with pytest.raises(InputError, match=r"data\.images has patterns for dev: the splits are train, val and test"):
        SegmentationData(**{**by_folder, "images": {"dev": "%.png"}})
    with pytest.raises(InputError, match=r"data\.images has no pattern for the split test, only for train"):
        SegmentationData(**{**by_folder, "images": {"train": "train/%.png"}}).dataset("test")
    with pytest.raises(InputError, match=r"there is no test split: give data.test"):
        SegmentationData(**{**by_folder, "images": "%.png"}).dataset("test")


@pytest.mark.parametrize("broken", [0, 1])
def test_skip_broken_decodes_each_image_once_and_lists_each_split_once(
    by_folder: dict[str, Any], broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(by_folder["root"])
    for i in range(broken):
        (root / "train" / f"{i}.png").write_bytes(b"nothing")
    decoded: list[Path] = []
    built: list[str] = []
    read, build = images.read_image, SegmentationDataset.__init__
    monkeypatch.setattr(images, "read_image", lambda path, *args, **options: decoded.append(path) or read(path, *args, **options))
    monkeypatch.setattr(SegmentationDataset, "__init__", lambda self, *args, **options: built.append("") or build(self, *args, **options))
    patterns = {"images": "train/%.png", "masks": "trainannot/%.png"}  # training and validation share the folder
    data = SegmentationData(**{**by_folder, **patterns}, skip_broken=True)
    for split in ("train", "val"):
        data.dataset(split)
    with nullcontext() if not broken else pytest.warns(UserWarning, match=r"1 of 3 images .* are left out .*0.png"):
        data.train_dataloader()
        data.val_dataloader()
        data.test_dataloader()
    assert len(data.readable("train")) == len(data.readable("val")) == 3 - broken
    assert sorted(decoded) == sorted((root / "train").glob("*.png")) and len(built) == 2


def test_processes_share_the_decoding_of_skip_broken(by_folder: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(by_folder["root"])
    (root / "train" / "0.png").write_bytes(b"nothing")
    (root / "train" / "1.png").write_bytes(b"nothing")
    paths = [root / "train" / f"{i}.png" for i in range(3)]

    def gather(parts: list[Any], own: dict[Path, str]) -> None:
        assert set(own) == {paths[0]}  # of the first and the third image
        parts[:] = [own, images.broken_images(paths[1::2])]

    monkeypatch.setattr(SegmentationData, "_processes", (0, 2))
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.warns(UserWarning, match="2 of 3 images"):
        assert SegmentationData(**by_folder, skip_broken=True).readable("train").names == ["2"]
