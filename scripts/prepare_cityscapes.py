"""Prepare Cityscapes with fine annotations, for data=cityscapes. Register and download the archives by hand first.

    python scripts/prepare_cityscapes.py --from ~/archives

Writes gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png (classes 0 to 18, 255 ignored), train.txt and val.txt below --root in cityscapes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path
import numpy as np

from maskclip.errors import run_script
from maskclip.functional import IGNORE_INDEX
from maskclip.images.reading import read_mask
from maskclip.images.writing import write_mask
from maskclip.prepare.conversion import convert, list_images, names_with_file, write_lines
from maskclip.prepare.download import Archive
from maskclip.prepare.release import Release, arguments, finish, obtain, read_classes
from maskclip.vocabulary import Palette

PAGE = "https://www.cityscapes-dataset.com/downloads/"
CITYSCAPES = Release(
    title="Cityscapes",
    page=PAGE,
    terms="non-commercial research and teaching, after registration",
    archives=[
        Archive(PAGE, "gtFine_trainvaltest.zip", 252_567_705, "md5:4237c19de34c8a376e9ba46b495d6f66"),
        Archive(PAGE, "leftImg8bit_trainvaltest.zip", 11_592_327_197, "md5:0a6e97e94b616a514066c9e2adb0c97f"),
    ],
    image_counts={"train": 2975, "val": 500},
    needed=lambda name: "/test/" not in name and name.endswith(("_gtFine_labelIds.png", "_leftImg8bit.png")),
    instructions=f"Cityscapes needs an account: register at {PAGE}, accept the licence, and download gtFine_trainvaltest.zip (241 MB) and "
    "leftImg8bit_trainvaltest.zip (11 GB).",
    folders=("leftImg8bit", "gtFine"),
    unpacked_bytes=8_200_000_000,
)
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The ids of the 19 evaluated classes; the others are ignored."""


def to_train_ids(source: Path, target: Path, palette: Palette) -> None:
    """Write a mask of ids as a mask of the classes 0 to 18."""
    table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    table[list(IDS)] = np.arange(19)
    write_mask(target, table[read_mask(source)], palette)


def main() -> None:
    args = arguments([CITYSCAPES], __doc__).parse_args()
    root = args.root / "cityscapes"
    obtain([CITYSCAPES], root, args.source, args.verify)
    print(root)
    splits = {}
    for split in CITYSCAPES.image_counts:
        images = list_images(root / "leftImg8bit" / split, "*/*_leftImg8bit.png")
        names = [f"{split}/{path.parent.name}/{path.name.removesuffix('_leftImg8bit.png')}" for path in images]
        splits[split] = names_with_file({name: root / "gtFine" / f"{name}_gtFine_labelIds.png" for name in names}, "labels")
    prefixes = [f"{root / 'gtFine' / name}_gtFine" for names in splits.values() for name in names]
    jobs = [(Path(f"{prefix}_labelIds.png"), Path(f"{prefix}_labelTrainIds.png")) for prefix in prefixes]
    convert(jobs, partial(to_train_ids, palette=read_classes("cityscapes19").colours), args.workers, "converting masks")
    for split, names in splits.items():
        write_lines(root / f"{split}.txt", names)
    finish(args, root, [CITYSCAPES], splits, "cityscapes")


if __name__ == "__main__":
    run_script(main)
