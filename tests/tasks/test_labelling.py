"""Where pseudo labels come from, and what the student learns from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import make_data, make_task, make_trainer

from maskclip import InputError, MaskCLIP
from maskclip.data.datamodule import SegmentationData
from maskclip.data.label_folder import LabelFolder
from maskclip.functional import UNLABELLED
from maskclip.inference.predict import predict
from maskclip.inference.protocol import Protocol
from maskclip.models.restricted import RestrictedMaskCLIP
from maskclip.segmenting.inputs import InputImage
from maskclip.segmenting.outputs import Outputs
from maskclip.segmenting.resuming import prepare
from maskclip.tasks.labelling import CropLabels, FolderLabels, PrecomputedLabels
from maskclip.tasks.maskclip_plus import MaskCLIPPlus


def list_todo(outputs: Outputs, images: list[InputImage]) -> list[InputImage]:
    return prepare(outputs, images, {})


def fit(task: MaskCLIPPlus, data: SegmentationData, folder: Path, source: Any, teacher: MaskCLIP, steps: int = 1) -> None:
    trainer = make_trainer(folder, steps, callbacks=source.prepare(data, teacher, list_todo))
    trainer.fit(task, data)


@pytest.mark.parametrize("labels", ["none", "seen"])
def test_precomputed_labels_are_those_of_whole_images(tiny: MaskCLIP, textures_root: Path, tmp_path: Path, labels: str) -> None:
    """As the paper has it, only the unlabelled classes compete; the protocol is the configured one."""
    data, protocol = make_data(textures_root, tiny.vocabulary, labels), Protocol(flip=True, window=64, stride=24)
    source = PrecomputedLabels(str(tmp_path / "labels"), protocol, num_workers=0)
    fit(make_task(tiny, labels), data, tmp_path, source, tiny)
    folder = LabelFolder(tmp_path / "labels", tiny.vocabulary, "pseudo_labels.folder")
    train = data.dataset("train").with_options(pseudo=folder)
    classes = tiny.vocabulary.unseen_indices if labels == "seen" else range(len(tiny.vocabulary))
    (expected,) = predict(RestrictedMaskCLIP(tiny, list(classes)), [train[0]["image"]], protocol)
    assert torch.equal(train[0]["pseudo"], expected.labels.long())
    assert data.pseudo is not None


def test_finished_images_are_not_labelled_again(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    source = PrecomputedLabels(str(tmp_path / "labels"), Protocol(), num_workers=0)
    fit(make_task(tiny, "none"), make_data(textures_root, tiny.vocabulary, "none"), tmp_path, source, tiny)
    files = sorted((tmp_path / "labels" / "masks").rglob("*.png"))
    files[0].unlink()
    times = {path: path.stat().st_mtime_ns for path in files[1:]}
    fit(make_task(tiny, "none"), make_data(textures_root, tiny.vocabulary, "none"), tmp_path, source, tiny)
    assert files[0].is_file() and times == {path: path.stat().st_mtime_ns for path in files[1:]}


def test_nothing_to_label_is_an_error(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    source = PrecomputedLabels(str(tmp_path / "labels"), Protocol(), num_workers=0)
    with pytest.raises(InputError, match=r"data\.labels=all: there is nothing to label"):
        fit(make_task(tiny, "all"), make_data(textures_root, tiny.vocabulary, "all"), tmp_path, source, tiny)
    with pytest.raises(InputError, match=r"pseudo_labels\.batch_size=0: give a whole number, at least 1"):
        PrecomputedLabels("labels", Protocol(), batch_size=0)


def test_the_student_learns_from_the_labels_in_a_folder(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    data = make_data(textures_root, tiny.vocabulary, "seen")
    source = PrecomputedLabels(str(tmp_path / "labels"), Protocol(), num_workers=0)
    fit(make_task(tiny, "none"), make_data(textures_root, tiny.vocabulary, "none"), tmp_path, source, tiny)
    FolderLabels(str(tmp_path / "labels")).prepare(data, tiny, list_todo)  # of all classes; the seen ones have labels here
    task = make_task(tiny, "seen")
    task.trainer = make_trainer(tmp_path, 4)
    batch = next(iter(data.train_dataloader()))
    learned = task.examples(batch, 0)
    mask, pseudo, labels = batch["mask"], batch["pseudo"], learned["labels"]
    unlabelled, unseen = mask == UNLABELLED, torch.tensor(tiny.vocabulary.unseen_indices)
    assert torch.equal(labels[~unlabelled], mask[~unlabelled])
    usable = unlabelled & torch.isin(pseudo, unseen)
    assert torch.equal(labels[usable], pseudo[usable]) and (labels[unlabelled & ~usable] == 255).all() and usable.any()


def test_images_are_labelled_before_they_are_mixed(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    data = make_data(textures_root, tiny.vocabulary, "none")
    task = make_task(tiny, "none", cutmix=1.0, run={"seed": 3})
    task.trainer = make_trainer(tmp_path, 4)
    batch = next(iter(data.train_dataloader()))
    learned = task.examples(batch, 0)
    image = batch["image"].float() / 255
    plain = task.fill(batch["mask"], image)
    from_next = (learned["image"] != image).any(dim=1)
    assert 0.05 < from_next.float().mean() < 0.6
    assert torch.equal(learned["labels"][~from_next], plain[~from_next])
    shifted_image, shifted_labels = image.roll(-1, 0).movedim(1, -1), plain.roll(-1, 0)
    assert torch.equal(learned["image"].movedim(1, -1)[from_next], shifted_image[from_next])
    assert torch.equal(learned["labels"][from_next], shifted_labels[from_next])


def test_crop_labels_prepare_nothing(tiny: MaskCLIP, textures_root: Path) -> None:
    data = make_data(textures_root, tiny.vocabulary, "none")
    assert CropLabels().prepare(data, tiny, list_todo) == [] and data.pseudo is None
