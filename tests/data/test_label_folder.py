"""Folders of label maps: pseudo labels of any origin, and corrected masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.training import make_data

from maskclip import InputError, MaskCLIP, Vocabulary
from maskclip.data.label_folder import LabelFolder
from maskclip.functional import UNLABELLED
from maskclip.images.writing import write_mask
from maskclip.inference.labels import Prediction
from maskclip.segmenting.outputs import Outputs

CLASSES = Vocabulary(["cat", "grass", "sky"])
SHAPE = (2, 3)
LABELS = np.array([[0, 1, 2], [255, 1, 0]], dtype=np.uint8)
IMAGES = PurePath("photos")


def folder_of(path: Path, classes: Vocabulary = CLASSES) -> LabelFolder:
    return LabelFolder(path, classes, "pseudo_labels.folder")


def write(path: Path, labels: np.ndarray = LABELS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return path


@pytest.mark.parametrize(
    "name", ["photos/a/cat.jpg.png", "photos/a/cat.png", "a/cat.jpg.png", "a/cat.png", "masks/a/cat.jpg.png", "masks/photos/a/cat.png"]
)
def test_names_below_the_root_or_the_images_with_and_without_suffix(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    folder = folder_of(tmp_path)
    assert folder.find(PurePath("photos/a/cat.jpg"), IMAGES) == path
    assert folder.read(path, SHAPE).tolist() == LABELS.tolist()
    assert folder.find(PurePath("photos/b/cat.jpg"), IMAGES) is None


def test_labels_of_segmenting_are_matched_by_name(tmp_path: Path) -> None:
    other = Vocabulary(["sky", "cat"])  # another order, without grass
    outputs = Outputs(tmp_path, other, overlays=False)
    outputs.write_legend()
    assert outputs.write("cat.jpg", np.zeros((1, 2, 3), np.uint8), Prediction(torch.tensor([[0, 1]], dtype=torch.uint8))) == ""
    folder = folder_of(tmp_path)
    path = folder.find(PurePath("photos/cat.jpg"), IMAGES)
    assert path is not None and folder.read(path, (1, 2)).tolist() == [[2, 0]]


def test_classes_that_the_data_set_lacks_are_an_error(tmp_path: Path) -> None:
    Outputs(tmp_path, Vocabulary(["cat", "dog"]), overlays=False).write_legend()
    with pytest.raises(InputError, match=r"have classes that the data set lacks: dog\. Segment with the same classes"):
        folder_of(tmp_path)
    (tmp_path / "legend.json").write_text(json.dumps({"classes": 3}))
    with pytest.raises(InputError, match=r"is not a legend of src/segment\.py"):
        folder_of(tmp_path)


def test_missing_folders_other_sizes_and_values_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder of label maps .*absent \(pseudo_labels.folder\)"):
        folder_of(tmp_path / "absent")
    folder, path = folder_of(tmp_path), write(tmp_path / "cat.png")
    with pytest.raises(InputError, match=r"cat.png \(pseudo_labels.folder\) is 3 x 2 pixels, its image 3 x 3"):
        folder.read(path, (3, 3))
    write(path, LABELS + np.uint8(3))
    with pytest.raises(InputError, match=r"has the values \[3, 4, 5\], but there are 3 classes"):
        folder.read(path, SHAPE)


def write_all(folder: Path, data: Any, vocabulary: Vocabulary, names: list[str]) -> None:
    """Masks of the ground truth, one class further on, so that they differ from it."""
    train = data.dataset("train")
    for name in names:
        labels = train.labels(name)
        folder.mkdir(exist_ok=True)
        write_mask(folder / f"{name}.png", np.where(labels == 255, labels, (labels + 1) % len(vocabulary)), vocabulary.colours)


def test_pseudo_labels_and_corrections_pass_through_the_augmentation(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    data = make_data(textures_root, tiny.vocabulary, "none")
    names = data.dataset("train").names
    write_all(tmp_path / "pseudo", data, tiny.vocabulary, names)
    write_all(tmp_path / "corrected", data, tiny.vocabulary, names[:2])
    data = make_data(textures_root, tiny.vocabulary, "none", corrected=str(tmp_path / "corrected"))
    data.use_pseudo_labels(LabelFolder(tmp_path / "pseudo", tiny.vocabulary, "pseudo_labels.folder"))
    samples = [sample for sample, _ in zip(data.train_dataloader(), range(len(names)), strict=False)]
    corrected = 0
    for batch in samples:
        for mask, pseudo, truth, is_corrected in zip(batch["mask"], batch["pseudo"], batch["truth"], batch["corrected"], strict=True):
            unlabelled = mask == UNLABELLED
            if is_corrected:  # the mask is the corrected one, in which nothing is hidden
                assert not unlabelled.any() and torch.equal(mask[mask != 255], pseudo[mask != 255])
                corrected += 1
            else:
                valid = unlabelled & (truth != 255)
                assert torch.equal(pseudo[valid], (truth[valid] + 1) % len(tiny.vocabulary))
    assert corrected > 0


def test_images_without_a_label_map_are_an_error(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    data = make_data(textures_root, tiny.vocabulary, "none")
    names = data.dataset("train").names
    write_all(tmp_path / "pseudo", data, tiny.vocabulary, names[1:])
    with pytest.raises(InputError, match=rf"1 of {len(names)} training images have no label map .*such as JPEGImages/{names[0]}.jpg"):
        data.use_pseudo_labels(LabelFolder(tmp_path / "pseudo", tiny.vocabulary, "pseudo_labels.folder"))
    with pytest.raises(InputError, match="no training image has a mask in"):
        (tmp_path / "empty").mkdir()
        next(iter(make_data(textures_root, tiny.vocabulary, "none", corrected=str(tmp_path / "empty")).train_dataloader()))


def test_images_that_are_skipped_need_no_label_map(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    shutil.copytree(textures_root, tmp_path / "data")
    data = make_data(tmp_path / "data", tiny.vocabulary, "none", skip_broken=True)
    first, *others = data.dataset("train").names
    write_all(tmp_path / "pseudo", data, tiny.vocabulary, others)
    (tmp_path / "data" / "JPEGImages" / f"{first}.jpg").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="1 of"):
        data.use_pseudo_labels(LabelFolder(tmp_path / "pseudo", tiny.vocabulary, "pseudo_labels.folder"))
    assert data.pseudo is not None
