"""Data sets on disk: names, labels, masks and messages."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from maskclip import InputError, notices
from maskclip.data.dataset import Draw, SegmentationDataset
from maskclip.data.transforms import TrainTransform
from maskclip.images.reading import broken_images


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Two images of 6 x 4 pixels; masks have the values 0..3 and 255."""
    mask = np.tile(np.array([0, 1, 2, 3, 255, 0], dtype=np.uint8), (4, 1))
    for name in ("a", "b"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), 10, dtype=np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "val.txt").write_text("a\nb\n")
    return {"root": tmp_path, "images": "images/%.png", "masks": "masks/%.png", "split": "val.txt", "num_classes": 4}


def test_a_sample(files: dict[str, Any]) -> None:
    data = SegmentationDataset(**files)
    sample = data[1]
    assert len(data) == 2 and sample["name"] == "b"
    assert sample["image"].shape == (3, 4, 6) and sample["image"].dtype == torch.uint8
    assert sample["mask"][0].tolist() == [0, 1, 2, 3, 255, 0] and sample["mask"].dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "row"),
    [
        ({"hide": [1, 3]}, [0, -1, 2, -1, 255, 0]),
        ({"hide": "valid"}, [-1, -1, -1, -1, 255, -1]),
        ({"hide": "all"}, [-1] * 6),
        ({"reduce_zero_label": True, "num_classes": 3}, [255, 0, 1, 2, 255, 255]),
        ({"reduce_zero_label": True, "num_classes": 3, "hide": [0]}, [255, -1, 1, 2, 255, 255]),
        ({"masks": None}, [255] * 6),
        ({"masks": None, "hide": "all"}, [-1] * 6),
    ],
)
def test_labels(files: dict[str, Any], options: dict[str, Any], row: list[int]) -> None:
    assert SegmentationDataset(**{**files, **options})[0]["mask"][2].tolist() == row


@pytest.mark.parametrize(
    ("hide", "row"),
    [([1, 3], [255, 1, 255, 3, 255, 255]), ("valid", [0, 1, 2, 3, 255, 0]), ("all", [0, 1, 2, 3, 255, 0])],
)
def test_samples_have_the_hidden_labels_on_request(files: dict[str, Any], hide: Any, row: list[int]) -> None:
    plain, sample = SegmentationDataset(**files, hide=hide)[0], SegmentationDataset(**files, hide=hide, truth=True)[0]
    assert "truth" not in plain and torch.equal(plain["mask"], sample["mask"]) and sample["truth"][0].tolist() == row
    for options in ({"hide": (), "truth": True}, {"masks": None, "hide": "all", "truth": True}):
        assert "truth" not in SegmentationDataset(**{**files, **options})[0]


def test_the_truth_goes_through_the_same_augmentation(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 9, (60, 80), dtype=np.uint8)
    Image.fromarray(np.stack([20 * labels] * 3, axis=-1)).save(tmp_path / "a.png")
    Image.fromarray(labels).save(tmp_path / "a_mask.png")
    transform = TrainTransform(100, 60, 80, scale=(1.0, 1.0), colour=False)
    data = SegmentationDataset(tmp_path, "%.png", 9, masks="%_mask.png", hide=[0, 1, 2], truth=True, transform=transform)
    for number in range(4):
        sample = data[Draw(0, number)]
        all_labels = torch.where(sample["mask"] == -1, sample["truth"], sample["mask"])
        valid = all_labels != 255
        assert torch.equal(all_labels[valid] * 20, sample["image"][0].long()[valid])
        assert valid.sum() == labels.size and (sample["mask"] == -1).any()


def test_without_a_split_all_images_are_listed(files: dict[str, Any]) -> None:
    deep = files["root"] / "images" / "more of them"
    deep.mkdir()
    Image.new("RGB", (6, 4)).save(deep / "ü.png")
    data = SegmentationDataset(**{**files, "split": None, "masks": None})
    assert data.names == ["a", "b", "more of them/ü"]
    assert data[2]["image"].shape == (3, 4, 6)


def test_names_may_have_spaces(files: dict[str, Any]) -> None:
    (files["root"] / "images" / "a.png").rename(files["root"] / "images" / "my photo.png")
    (files["root"] / "val.txt").write_text("my photo\n\n")
    assert SegmentationDataset(**{**files, "masks": None})[0]["name"] == "my photo"


def test_a_pattern_may_contain_part_of_the_file_name(files: dict[str, Any]) -> None:
    (files["root"] / "images" / "left_1.png").write_bytes((files["root"] / "images" / "a.png").read_bytes())
    data = SegmentationDataset(**{**files, "images": "images/left_%.png", "split": None, "masks": None})
    assert data.names == ["1"]


def test_a_pattern_needs_a_placeholder(files: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"data.images=\*.jpg needs one % in the place of the name"):
        SegmentationDataset(**{**files, "images": "*.jpg"})


def test_braces_are_not_the_placeholder(files: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"data.masks=masks/{}.png: write % for the name, data.masks=masks/%.png"):
        SegmentationDataset(**{**files, "masks": "masks/{}.png"})


def pasted(message: str) -> object:
    """The value of the last setting in a message, as Hydra reads it after a shell has split the words."""
    word = next(word for word in reversed(shlex.split(message)) if word.startswith("data."))
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize("pattern", ["{}.png", "my photos (1)/{}.jpg", "Übersee/{}.jpg", "~{}.png", "'a\"b/{}", "a,b/{}.png", "$x&{}.jpg"])
def test_the_remedy_for_braces_can_be_pasted(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError) as error:
        SegmentationDataset(tmp_path, pattern, 2)
    assert pasted(str(error.value).partition(": ")[2].partition("for the name, ")[2]) == pattern.replace("{}", "%")


def test_the_transform_gets_the_number_of_the_draw(files: dict[str, Any]) -> None:
    numbers = []
    data = SegmentationDataset(**files, transform=lambda image, mask, number: numbers.append(number) or (image, mask))
    assert data[Draw(1, 77)]["name"] == "b"
    assert numbers == [77]


def broken(files: dict[str, Any], kind: str) -> dict[str, Any]:
    root: Path = files["root"]
    if kind == "no root":
        return {**files, "root": root / "nowhere", "source": "Get it from there."}
    if kind == "no split":
        return {**files, "split": "train.txt"}
    if kind == "empty split":
        (root / "val.txt").write_text("\n")
    if kind == "empty folder":
        return {**files, "images": "photos/%.png", "split": None}
    if kind == "image missing":
        (root / "images" / "a.png").unlink()
    if kind == "mask missing":
        (root / "masks" / "a.png").unlink()
    if kind == "image broken":
        (root / "images" / "a.png").write_bytes(b"\x89PNG nothing")
    if kind == "mask of another size":
        Image.new("L", (4, 6)).save(root / "masks" / "a.png")
    if kind == "mask in colour":
        Image.new("RGB", (6, 4)).save(root / "masks" / "a.png")
    if kind == "label too high":
        return {**files, "num_classes": 3}
    return files


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no root", r"no data in .*nowhere \(data.root\). Get it from there."),
        ("no split", r"no split file .*train\.txt"),
        ("empty split", r"no images: .*val\.txt is empty"),
        ("empty folder", r"no images: .*photos/%\.png matches no file"),
        ("image missing", r"no such image: .*a\.png, listed in .*val.txt: correct the split file"),
        ("mask missing", r"no such mask: .*a\.png"),
        ("image broken", r"cannot read the image .*a\.png"),
        ("mask of another size", r"masks/a\.png is 4 x 6 pixels, its image a 6 x 4"),
        ("mask in colour", r"a\.png has mode RGB"),
        ("label too high", r"a\.png has labels \[3\], but there are 3 classes"),
    ],
)
def test_errors_name_the_file(files: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SegmentationDataset(**broken(files, kind))[0]


@pytest.fixture
def holiday(tmp_path: Path) -> Path:
    """Nested folders with blanks and umlauts in their names, images of several formats, and files that are not images."""
    root = tmp_path / "my photos"
    (root / "Übersee" / "day 2").mkdir(parents=True)
    for place, mode in (("a.jpg", "RGB"), ("b.JPEG", "L"), ("Übersee/c d.png", "RGBA"), ("Übersee/day 2/ä.webp", "RGB"), ("e.tif", "RGB")):
        Image.new(mode, (8, 6)).save(root / place)
    (root / "notes.txt").write_text("not an image")
    (root / "Übersee" / ".a.jpg").write_bytes(b"metadata of a file manager")
    return root


def test_a_folder_of_photos(holiday: Path) -> None:
    data = SegmentationDataset(holiday, "%", num_classes=2, hide="all")
    assert data.names == ["a.jpg", "b.JPEG", "e.tif", "Übersee/c d.png", "Übersee/day 2/ä.webp"]
    assert all(sample["image"].shape == (3, 6, 8) and (sample["mask"] == -1).all() for sample in (data[i] for i in range(5)))


def test_a_broken_image_is_an_error_or_left_out(holiday: Path) -> None:
    (holiday / "broken.jpg").write_bytes((holiday / "a.jpg").read_bytes()[:100])
    data = SegmentationDataset(holiday, "%", num_classes=2)
    with pytest.raises(InputError, match=r"cannot read the image .*broken.jpg"):
        data[data.names.index("broken.jpg")]
    data.leave_out(broken_images([data.image_path(name) for name in data.names]))
    assert "broken.jpg" not in data.names and len(data) == 5
    ((path, why),) = data.broken.items()
    assert path.name == "broken.jpg" and "broken.jpg" in why
    for path in holiday.rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"no image in .* can be read. First error: cannot read the image"):
        data.leave_out(broken_images([data.image_path(name) for name in data.names]))


def test_masks_of_images_with_any_suffix(holiday: Path) -> None:
    for name in ("a", "b", "e", "Übersee/c d", "Übersee/day 2/ä"):
        path = holiday / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ones((6, 8), np.uint8)).save(path)
    data = SegmentationDataset(holiday, "%", num_classes=2, masks="masks/%.png")
    assert len(data) == 5  # masks are not listed as images
    assert all((data[i]["mask"] == 1).all() for i in range(5))


def test_masks_in_the_folder_of_images_are_not_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.jpg")
        Image.fromarray(np.ones((6, 8), np.uint8)).save(tmp_path / f"{name}.png")
    data = SegmentationDataset(tmp_path, "%", num_classes=2, masks="%.png")
    assert data.names == ["a.jpg", "b.jpg"] and (data[1]["mask"] == 1).all()
    Image.new("RGB", (8, 6)).save(tmp_path / "a.webp")
    with pytest.raises(InputError, match=r"a.jpg and a.webp have the same mask, .*a.png"):
        SegmentationDataset(tmp_path, "%", num_classes=2, masks="%.png")


def test_masks_named_after_the_whole_file_name_come_first(tmp_path: Path) -> None:
    for image, mask, label in (("cat.jpg", "cat.jpg.png", 0), ("cat.png", "cat.png.png", 1), ("dog.jpg", "dog.png", 2)):
        Image.new("RGB", (8, 6)).save(tmp_path / image)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 8), label, np.uint8)).save(tmp_path / "masks" / mask)
    data = SegmentationDataset(tmp_path, "%", num_classes=3, masks="masks/%.png")
    assert data.names == ["cat.jpg", "cat.png", "dog.jpg"]
    assert [int(data[i]["mask"].unique()) for i in range(3)] == [0, 1, 2]


def test_more_than_254_classes(files: dict[str, Any]) -> None:
    wide = np.tile(np.array([0, 254, 255, 458, 65535, 3], dtype=np.uint16), (4, 1))
    for name in ("a", "b"):
        Image.fromarray(wide).save(files["root"] / "masks" / f"{name}.png")
    data = SegmentationDataset(**{**files, "num_classes": 459})
    assert data[0]["mask"][0].tolist() == [0, 254, 255, 458, 65535, 3]
    hidden = SegmentationDataset(**{**files, "num_classes": 459, "hide": [254, 458]})
    assert hidden[0]["mask"][0].tolist() == [0, -1, 255, -1, 65535, 3]
    cropped = SegmentationDataset(**{**files, "num_classes": 459}, transform=lambda image, mask, _: (image[:2], mask[:2]))
    assert cropped[0]["mask"].shape == (2, 6) and cropped[0]["mask"][0, 4] == 65535
    with pytest.raises(InputError, match=r"a.png has labels \[458\], but there are 458 classes .*65535 ignored"):
        SegmentationDataset(**{**files, "num_classes": 458})[0]


def test_corruptions_depend_on_the_name_of_the_image(files: dict[str, Any]) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.full((4, 6, 3), 100, dtype=np.uint8)).save(files["root"] / "images" / f"{name}.png")
    data = SegmentationDataset(**files, corruption="gaussian_noise", severity=2)
    assert torch.equal(data[0]["image"], data[0]["image"])
    assert not torch.equal(data[0]["image"], data[1]["image"])
    assert torch.equal(data[0]["mask"], SegmentationDataset(**files)[0]["mask"])
    with pytest.raises(InputError, match=r"severity"):
        SegmentationDataset(**files, corruption="gaussian_noise", severity=6)


@pytest.mark.parametrize("pattern", ["./images/%.png", "images//%.png"])
def test_patterns_may_start_with_a_dot_or_repeat_slashes(files: dict[str, Any], pattern: str) -> None:
    options = {**files, "images": pattern, "split": None}
    assert SegmentationDataset(**options).names == SegmentationDataset(**{**options, "images": "images/%.png"}).names


def set_orientation(files: dict[str, Any], orientation: int) -> None:
    """Write an EXIF orientation into the images, without changing the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in (Path(files["root"]) / "images").iterdir():
        Image.open(path).save(path, exif=exif)


def test_the_error_about_sizes_explains_the_exif_orientation(files: dict[str, Any]) -> None:
    set_orientation(files, 6)
    with pytest.raises(InputError, match=r"its image a 4 x 6 as displayed: the image has EXIF orientation 6.*Set data\.exif=false"):
        SegmentationDataset(**files)[0]
    assert SegmentationDataset(**files, exif=False)[0]["mask"][0].tolist() == [0, 1, 2, 3, 255, 0]
    for path in (Path(files["root"]) / "masks").iterdir():
        Image.open(path).transpose(Image.Transpose.ROTATE_270).save(path)
    assert SegmentationDataset(**files)[0]["mask"][:, 0].tolist() == [0, 1, 2, 3, 255, 0]
    with pytest.raises(InputError, match=r"as stored: the image has EXIF orientation 6.*has its size as displayed\. Set data\.exif=true"):
        SegmentationDataset(**files, exif=False)[0]


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_exif_orientations_that_keep_the_size_are_a_warning(
    files: dict[str, Any], orientation: int, caplog: pytest.LogCaptureFixture
) -> None:
    set_orientation(files, orientation)
    for exif, warnings in ((False, 0), (True, 1)):
        notices.reset()
        caplog.clear()
        with caplog.at_level("WARNING"):
            data = SegmentationDataset(**files, exif=exif)
            for number in (0, 1, 0):
                assert data[number]["mask"][0].tolist() == [0, 1, 2, 3, 255, 0]
        assert len(caplog.messages) == warnings
        assert all(f"EXIF orientation {orientation}" in text and "data.exif=false" in text for text in caplog.messages)
    notices.reset()


def write_mask(path: Path, row: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.array(row, dtype=np.uint8), (4, 1))).save(path)


def advice(root: Path, **options: Any) -> str:
    data = SegmentationDataset(root, "images/%.png", 3, masks="masks/%.png", class_names=["sky", "road", "car"], **options)
    with pytest.raises(InputError) as error:
        [data[i] for i in range(len(data))]
    return str(error.value)


def test_a_value_of_one_too_many_has_two_remedies(files: dict[str, Any]) -> None:
    write_mask(files["root"] / "masks" / "a.png", [1, 2, 3, 3, 3, 3])
    write_mask(files["root"] / "masks" / "b.png", [0, 1, 2, 2, 2, 2])  # 0 and 3 are in different masks
    message = advice(files["root"])
    assert "a.png has labels [3], but there are 3 classes (values 0..2; 255 ignored)" in message
    assert "'data.ignore=[3]', and value 0 stays sky" in message
    assert "data.reduce_zero_label=true: value 0 is ignored, value 1 is sky, value 3 is car" in message


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (([1, 2, 3, 3, 3, 3],) * 2, {}),  # no 0
        (([0, 1, 2, 3, 9, 9],) * 2, {}),  # the highest value is not the number of classes
        (([0, 1, 2, 2, 2, 2], [0, 1, 2, 3, 4, 9]), {}),
        (([0, 1, 2, 3, 4, 4],) * 2, {"reduce_zero_label": True}),
    ],
)
def test_other_values_are_not_explained_by_shifted_classes(files: dict[str, Any], rows: Any, options: dict[str, Any]) -> None:
    for name, row in zip(("a", "b"), rows, strict=True):
        write_mask(files["root"] / "masks" / f"{name}.png", row)
    message = advice(files["root"], **options)
    assert "data.reduce_zero_label" not in message and "'data.ignore=[" in message and "add their names" in message


def test_advice_about_many_values_has_no_command(files: dict[str, Any]) -> None:
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) + np.uint8(9)).save(files["root"] / "masks" / "a.png")
    message = advice(files["root"])
    assert "list them all in data.ignore" in message and "'data.ignore=[" not in message and "value 0 stays sky" in message


def test_ignored_values(files: dict[str, Any]) -> None:
    assert SegmentationDataset(**files, ignore=[3, 1])[0]["mask"][0].tolist() == [0, 255, 2, 255, 255, 0]
    shifted = SegmentationDataset(**{**files, "num_classes": 2}, reduce_zero_label=True, ignore=[3])
    assert shifted[0]["mask"][0].tolist() == [255, 0, 1, 255, 255, 255]
    Image.fromarray(np.tile(np.array([0, 1, 2, 3, 65535, 40000], dtype=np.uint16), (4, 1))).save(files["root"] / "masks" / "a.png")
    assert SegmentationDataset(**files, ignore=[40000, 65535])[0]["mask"][0].tolist() == [0, 1, 2, 3, 255, 255]
    for wrong in (11, [True], ["a"], [-1], "11"):
        with pytest.raises(InputError, match=r"data.ignore=.*'data.ignore=\[11\]'"):
            SegmentationDataset(**files, ignore=wrong)


@pytest.mark.parametrize("line", ["{i}.png {m}.png", "{i}.png\t{m}.png", "  {i}.png   {m}.png  "])
def test_split_files_with_pairs_of_an_image_and_a_mask(files: dict[str, Any], line: str) -> None:
    write_mask(files["root"] / "odd" / "of_a.png", [3, 3, 3, 3, 3, 3])
    (files["root"] / "val.txt").write_text(line.format(i="images/a", m="odd/of_a") + "\n")
    data = SegmentationDataset(**{**files, "images": "%", "masks": "%"})
    assert data.names == ["images/a.png"] and (data[0]["mask"] == 3).all()


def test_absolute_paths_of_another_machine_in_split_files(files: dict[str, Any]) -> None:
    (files["root"] / "val.txt").write_text("/SegNet/CamVid/images/a.png /SegNet/CamVid/masks/a.png\n")
    options = {**files, "images": "%", "masks": "%"}
    assert SegmentationDataset(**options, split_prefix="/SegNet/CamVid/")[0]["name"] == "images/a.png"
    (files["root"] / "val.txt").write_text("/SegNet/CamVid/images/a.png\t/SegNet/CamVid/masks/a.png\n")
    with pytest.raises(InputError, match=r"no such image: .*with data.split_prefix=/SegNet/CamVid/ it is .*images/a.png"):
        SegmentationDataset(**options)


def test_the_prefix_in_a_remedy_can_be_pasted(files: dict[str, Any]) -> None:
    (files["root"] / "val.txt").write_text("/my data (old)/images/a.png\t/my data (old)/masks/a.png\n")
    with pytest.raises(InputError, match="no such image") as error:
        SegmentationDataset(**{**files, "images": "%", "masks": "%"})
    assert pasted(str(error.value).partition(" it is ")[0].rpartition("; with ")[2]) == "/my data (old)/"


def test_masks_in_a_split_file_are_checked_at_the_start(files: dict[str, Any]) -> None:
    (files["root"] / "val.txt").write_text("a\ta\nb\tc\n")
    with pytest.raises(
        InputError, match=r"no such mask: .*masks/c\.png, listed in .*val\.txt: correct the split file, data\.masks or data\.root"
    ):
        SegmentationDataset(**files)
    assert SegmentationDataset(**{**files, "masks": None}).names == ["a", "b"]


def test_voc_lists_of_single_classes_have_their_own_remedy(files: dict[str, Any]) -> None:
    (files["root"] / "val.txt").write_text("a -1\nb  1\n")
    with pytest.raises(InputError, match=r"val\.txt .*VOC's ImageSets/Main.*: use a list of image names, such as ImageSets/Segmentation/"):
        SegmentationDataset(**files)
    for value in ("-1", "1"):
        (files["root"] / "masks" / "a.png").rename(files["root"] / "masks" / f"{value}.png")
        write_mask(files["root"] / "masks" / "a.png", [0] * 6)
    assert len(SegmentationDataset(**files)) == 2  # masks may have such names


def test_a_line_with_a_blank_is_a_name_if_such_an_image_exists(files: dict[str, Any]) -> None:
    for folder in ("images", "masks"):
        (files["root"] / folder / "a.png").rename(files["root"] / folder / "a b.png")
    (files["root"] / "val.txt").write_text("a b\n")
    assert SegmentationDataset(**files)[0]["name"] == "a b"


@pytest.mark.parametrize(
    ("lines", "message"),
    [("a\tb\tc\n", "line 1 of .* has 3 fields"), ("a\ta\na\tb\n", "lists two masks for the image a: a and b")],
)
def test_invalid_split_files(files: dict[str, Any], lines: str, message: str) -> None:
    (files["root"] / "val.txt").write_text(lines)
    with pytest.raises(InputError, match=message):
        SegmentationDataset(**files)


def test_a_split_file_in_utf_16(files: dict[str, Any]) -> None:
    (files["root"] / "val.txt").write_text("a\r\nb\r\n", encoding="utf-16")
    assert SegmentationDataset(**files).names == ["a", "b"]


def test_listed_images_that_share_a_mask(files: dict[str, Any]) -> None:
    Image.new("RGB", (6, 4)).save(files["root"] / "images" / "a.jpg")
    (files["root"] / "val.txt").write_text("a.png\na.jpg\n")
    with pytest.raises(InputError, match=r"a.png and a.jpg have the same mask, .*the whole file name, masks/a.jpg.png"):
        SegmentationDataset(**{**files, "images": "images/%"})
