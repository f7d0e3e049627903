"""Small releases of the data sets in the published format, with the same names, folders, file formats and irregularities."""

from __future__ import annotations

import importlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

Files = dict[str, bytes]
SIZE = (90, 72)  # width, height


def jpeg(seed: int, size: tuple[int, int] = SIZE, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 6 + 1, size[0] // 6 + 1, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode), "JPEG")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def blocks(values: list[int], size: tuple[int, int] = SIZE, dtype: type = np.uint8) -> np.ndarray:
    """Labels in vertical stripes of equal width."""
    stripes = np.asarray(values, dtype=dtype)[np.arange(size[0]) * len(values) // size[0]]
    return np.tile(stripes, (size[1], 1))


def palette_png(labels: np.ndarray) -> bytes:
    """A palette PNG with colours, as in VOC."""
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(np.random.default_rng(0).integers(0, 255, 768, dtype=np.uint8).tobytes())
    return encoded(image)


def grey_png(labels: np.ndarray) -> bytes:
    return encoded(Image.fromarray(labels.astype(np.uint8)))


def mat(content: dict[str, object]) -> bytes:
    stream = io.BytesIO()
    savemat(stream, content, do_compression=True)
    return stream.getvalue()


def write_tar(path: Path, files: Files, mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_zip(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def lines(names: list[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


VOC_TRAIN, VOC_VAL = ["2007_000032", "2007_000039"], ["2007_000033", "2007_000042"]
SBD_TRAIN, SBD_VAL = ["2008_000002", "2007_000032"], ["2008_000003", "2007_000042"]
BORDERED = [0, 255, 15, 255, 20]


def write_voc(folder: Path) -> None:
    voc = "VOCdevkit/VOC2012"
    names = [*VOC_TRAIN, *VOC_VAL, "2008_000002", "2008_000003", "2008_000009"]
    files = {f"{voc}/JPEGImages/{name}.jpg": jpeg(i) for i, name in enumerate(names)}
    files |= {f"{voc}/SegmentationClass/{name}.png": palette_png(blocks(BORDERED)) for name in (*VOC_TRAIN, *VOC_VAL)}
    for task in ("Segmentation", "Main"):
        files |= {f"{voc}/ImageSets/{task}/{s}.txt": lines(n) for s, n in (("train", VOC_TRAIN), ("val", VOC_VAL))}
    files |= {f"{voc}/Annotations/{names[0]}.xml": b"<annotation/>"}
    write_tar(folder / "VOCtrainval_11-May-2012.tar", files)
    sbd = "benchmark_RELEASE/dataset"
    masks = {}
    for name in {*SBD_TRAIN, *SBD_VAL}:
        inner = {"Boundaries": np.zeros((20, 1)), "Segmentation": blocks([0, 3, 20]), "CategoriesPresent": np.array([3, 20])}
        masks[f"{sbd}/cls/{name}.mat"] = mat({"GTcls": inner})
        masks[f"{sbd}/inst/{name}.mat"] = b"not needed"
    masks |= {f"{sbd}/train.txt": lines(SBD_TRAIN), f"{sbd}/val.txt": lines(SBD_VAL)}
    write_tar(folder / "benchmark.tgz", masks, "w:gz")


CONTEXT_TRAIN, CONTEXT_VAL = ["2008_000008", "2008_000015"], ["2008_000002", "2008_000003"]
CONTEXT_LEFT_OUT = {"train": ["2008_003252", "2010_001592"], "val": ["2010_001606"]}  # in the lists of VOC, not in the published split
CONTEXT_IDS = [0, 1, 2, 9, 255, 256, 458, 459]  # unlabelled, accordion, aeroplane, bag, two outside the 59 classes, wood, the last class


def context_lists(**later: list[str]) -> Files:
    """ImageSets/Main of VOC. `later` adds images of later releases to a split."""
    names = {"train": CONTEXT_TRAIN, "val": CONTEXT_VAL}
    main = {split: lines([*names[split], *CONTEXT_LEFT_OUT[split], *later.get(split, [])]) for split in names}
    return {f"ImageSets/Main/{split}.txt": content for split, content in main.items()}


CONTEXT_ALL = [*CONTEXT_TRAIN, *CONTEXT_VAL, *CONTEXT_LEFT_OUT["train"], *CONTEXT_LEFT_OUT["val"]]


def write_context(folder: Path) -> None:
    files = {f"JPEGImages/{name}.jpg": jpeg(i) for i, name in enumerate(CONTEXT_ALL)}
    files |= context_lists() | {"ImageSets/Main/cat_train.txt": b"2008_000008 -1\n"}
    write_tar(folder / "VOCtrainval_03-May-2010.tar", {f"VOCdevkit/VOC2010/{name}": content for name, content in files.items()})
    write_context_maps(folder)


def write_context_maps(folder: Path) -> None:
    labels = mat({"LabelMap": blocks(CONTEXT_IDS, dtype=np.uint16)})
    maps = {f"trainval/{name}.mat": labels for name in CONTEXT_ALL}
    write_tar(folder / "trainval.tar.gz", {"trainval/labels.txt": b"1: accordion\n", **maps}, "w:gz")


def write_context_2012(folder: Path) -> None:
    """VOC 2012 with the images of Pascal Context and two others of 2011."""
    files = {f"JPEGImages/{name}.jpg": jpeg(i) for i, name in enumerate([*CONTEXT_ALL, "2011_000001", "2011_000002"])}
    files |= context_lists(train=["2011_000001"], val=["2011_000002"])
    write_tar(folder / "VOCtrainval_11-May-2012.tar", {f"VOCdevkit/VOC2012/{name}": content for name, content in files.items()})
    write_context_maps(folder)


COCO = {"train2017": ["000000000009", "000000000025", "000000000030"], "val2017": ["000000000139", "000000000285"]}
COCO_VALUES = [0, 10, 12, 89, 91, 181, 255]  # person, fire hydrant, stop sign (11 is unused), toothbrush, banner, wood, unlabelled


def write_coco(folder: Path) -> None:
    maps = {}
    for split, names in COCO.items():
        modes = {names[0]: "L"}  # some images of COCO are grey
        write_zip(folder / f"{split}.zip", {f"{split}/{n}.jpg": jpeg(int(n), mode=modes.get(n, "RGB")) for n in names})
        maps |= {f"{split}/{name}.png": grey_png(blocks(COCO_VALUES)) for name in names}
    write_zip(folder / "stuffthingmaps_trainval2017.zip", maps)


CITY = {
    "train": ["aachen/aachen_000000_000019", "zurich/zurich_000121_000019"],
    "val": ["frankfurt/frankfurt_000001_005410", "munster/munster_000000_000019"],
    "test": ["berlin/berlin_000000_000019"],
}
CITY_IDS = [0, 7, 8, 14, 26, 33, 255]


def write_cityscapes(folder: Path) -> None:
    images, labels = {"README": b"", "license.txt": b""}, {"README": b""}
    for split, names in CITY.items():
        for name in names:
            pixels = Image.open(io.BytesIO(jpeg(len(name), (128, 64))))
            images[f"leftImg8bit/{split}/{name}_leftImg8bit.png"] = encoded(pixels)
            for kind in ("labelIds", "instanceIds", "color"):
                labels[f"gtFine/{split}/{name}_gtFine_{kind}.png"] = grey_png(blocks(CITY_IDS, (128, 64)))
            labels[f"gtFine/{split}/{name}_gtFine_polygons.json"] = b"{}"
    write_zip(folder / "leftImg8bit_trainvaltest.zip", images)
    write_zip(folder / "gtFine_trainvaltest.zip", labels)


ADE = {"training": ["ADE_train_00000001", "ADE_train_00000002"], "validation": ["ADE_val_00000001", "ADE_val_00000002"]}


def write_ade(folder: Path) -> None:
    root, files = "ADEChallengeData2016", {"ADEChallengeData2016/sceneCategories.txt": b"", "ADEChallengeData2016/objectInfo150.txt": b""}
    for split, names in ADE.items():
        for i, name in enumerate(names):
            files[f"{root}/images/{split}/{name}.jpg"] = jpeg(i)
            files[f"{root}/annotations/{split}/{name}.png"] = grey_png(blocks([0, 1, 13, 150]))
    write_zip(folder / "ADEChallengeData2016.zip", files)


WRITERS: dict[str, Callable[[Path], None]] = {
    "voc": write_voc,
    "context": write_context,
    "coco": write_coco,
    "cityscapes": write_cityscapes,
    "ade20k": write_ade,
}


def prepare(monkeypatch: pytest.MonkeyPatch, name: str, root: Path, *arguments: str) -> None:
    """Run scripts/prepare_NAME.py in this process."""
    monkeypatch.setattr(sys, "argv", [f"prepare_{name}.py", f"--root={root}", "--workers=1", "--no-verify", *arguments])
    importlib.import_module(f"prepare_{name}").main()
