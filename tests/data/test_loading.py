"""Samplers and the data module: every image once in evaluation, numbered and repeatable draws in training."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskclip import InputError, Vocabulary
from maskclip.data.datamodule import SegmentationData
from maskclip.data.samplers import EveryNth, NumberedDraws
from maskclip.data.transforms import TrainTransform
from maskclip.images.reading import broken_images


@pytest.mark.parametrize(("images", "world"), [(5, 2), (4, 2), (7, 3), (2, 4)])
def test_evaluation_reads_every_image_once(images: int, world: int) -> None:
    counts = Counter(index for rank in range(world) for index in EveryNth(range(images), rank, world))
    assert counts == Counter(range(images))


def test_an_epoch_has_every_image_once() -> None:
    draws = list(islice(NumberedDraws(range(7), seed=3, batch=2), 21))
    assert [draw.number for draw in draws] == list(range(21))
    for epoch in range(3):
        assert sorted(draw.image for draw in draws[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert [d.image for d in draws[:7]] != [d.image for d in draws[7:14]]


def test_draws_do_not_depend_on_processes_or_restarts() -> None:
    single = list(islice(NumberedDraws(range(10), seed=0, batch=4), 24))
    two = [list(islice(NumberedDraws(range(10), seed=0, batch=2, rank=rank, world=2), 12)) for rank in (0, 1)]
    merged = [draw for step in range(6) for rank in (0, 1) for draw in two[rank][2 * step : 2 * step + 2]]
    assert merged == single
    assert list(islice(NumberedDraws(range(10), seed=0, batch=4, start=8), 16)) == single[8:]
    done = 0
    resumable = NumberedDraws(range(10), seed=0, batch=4, start=lambda: done)
    assert next(iter(resumable)) == single[0]
    done = 12
    assert next(iter(resumable)) == single[12]


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
    evaluated = {v for samples in data.val_dataloader() for sample in samples for v in sample["mask"].unique().tolist()}
    assert evaluated & unseen and -1 not in evaluated


def test_workers_do_not_change_batches(textures_root: Path, texture_classes: Vocabulary) -> None:
    expected = next(iter(module(textures_root, texture_classes, batch_size=6).train_dataloader()))
    data = module(textures_root, texture_classes, batch_size=6)
    data.num_workers = 2
    with_workers = next(iter(data.train_dataloader()))
    assert torch.equal(expected["image"], with_workers["image"]) and expected["name"] == with_workers["name"]


def test_invalid_settings(textures_root: Path, texture_classes: Vocabulary) -> None:
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


def test_errors_of_workers_have_no_traceback(textures_root: Path, texture_classes: Vocabulary) -> None:
    data = module(textures_root, texture_classes, masks="nowhere/%.png")
    data.num_workers = 1
    with pytest.raises(InputError) as error:
        next(iter(data.val_dataloader()))
    assert str(error.value).startswith("no such mask: ") and "\n" not in str(error.value)


def test_without_masks_there_is_no_validation(textures_root: Path, texture_classes: Vocabulary) -> None:
    data = module(textures_root, texture_classes, masks=None, labels="none", batch_size=4)
    assert data.val_dataloader() == []
    assert (next(iter(data.train_dataloader()))["mask"] <= 255).all()


def test_evaluation_in_lists_of_images_of_any_size(textures_root: Path, texture_classes: Vocabulary) -> None:
    singles = [sample for samples in module(textures_root, texture_classes).val_dataloader() for sample in samples]
    lists = list(module(textures_root, texture_classes, eval_batch_size=3).val_dataloader())
    assert [len(samples) for samples in lists] == [3, 2]
    assert [sample["name"] for samples in lists for sample in samples] == [sample["name"] for sample in singles]
    for sample, single in zip((sample for samples in lists for sample in samples), singles, strict=True):
        assert torch.equal(sample["image"], single["image"]) and torch.equal(sample["mask"], single["mask"])


def test_only_images_of_evaluation_are_corrupted(textures_root: Path, texture_classes: Vocabulary) -> None:
    clean = module(textures_root, texture_classes, batch_size=4)
    corrupted = module(textures_root, texture_classes, batch_size=4, corruption="gaussian_noise", severity=3)
    (one,), (other,) = (next(iter(data.val_dataloader())) for data in (clean, corrupted))
    assert torch.equal(one["mask"], other["mask"])
    difference = (one["image"].float() - other["image"].float()).abs().mean()
    assert 15 < difference < 60  # sigma is 0.18 of 255
    again = next(iter(module(textures_root, texture_classes, corruption="gaussian_noise", severity=3).val_dataloader()))[0]
    assert torch.equal(other["image"], again["image"])
    assert torch.equal(*(next(iter(data.train_dataloader()))["image"] for data in (clean, corrupted)))


@pytest.fixture
def by_folder(tmp_path: Path) -> dict[str, Any]:
    """Images and masks in a folder for each split, as in CamVid."""
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


def test_unknown_splits(by_folder: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"data\.split=tests: choose train, val or test"):
        SegmentationData(**by_folder, split="tests")
    with pytest.raises(InputError, match=r"data\.images has patterns for dev: the splits are train, val and test"):
        SegmentationData(**{**by_folder, "images": {"dev": "%.png"}})
    with pytest.raises(InputError, match=r"data\.images has no pattern for the split test, only for train"):
        SegmentationData(**{**by_folder, "images": {"train": "train/%.png"}}).dataset("test")
    with pytest.raises(InputError, match=r"there is no test split: give data.test"):
        SegmentationData(**{**by_folder, "images": "%.png"}).dataset("test")


def test_skip_broken_decodes_and_lists_files_once(by_folder: dict[str, Any]) -> None:
    folder = Path(by_folder["root"]) / "train"
    (folder / "0.png").write_bytes(b"nothing")
    patterns = {"images": "train/%.png", "masks": "trainannot/%.png"}  # training and validation share the folder
    data = SegmentationData(**{**by_folder, **patterns}, skip_broken=True)
    with pytest.warns(UserWarning, match=r"1 of 3 train images are skipped .*0.png"):
        assert data.readable("train").names == ["1", "2"]
    (folder / "1.png").write_bytes(b"nothing")  # not decoded again
    with pytest.warns(UserWarning, match=r"1 of 3 val images are skipped .*0.png"):
        assert data.readable("val").names == ["1", "2"]
    (folder / "3.png").write_bytes(b"nothing")  # not listed again
    assert data.readable("train") is data.readable("train") and data.dataset("val") is data.dataset("val")
    assert len(data.dataset("val")) == 3


def test_skip_broken_without_broken_images_has_no_warning(by_folder: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    data = SegmentationData(**by_folder, skip_broken=True)
    assert len(data.readable("train")) == 3 and not recwarn.list


def test_processes_share_the_decoding_of_skip_broken(by_folder: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [Path(by_folder["root"]) / "train" / f"{i}.png" for i in range(3)]
    for path in paths[:2]:
        path.write_bytes(b"nothing")

    def gather(shares: list[Any], own_share: dict[Path, str]) -> None:
        assert set(own_share) == {paths[0]}  # of the first and the third image
        shares[:] = [own_share, broken_images(paths[1::2])]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    data = SegmentationData(**by_folder, skip_broken=True)
    data.trainer = SimpleNamespace(global_rank=0, world_size=2)  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="2 of 3 train images"):
        assert data.readable("train").names == ["2"]
