"""Cityscapes, fine annotations, for data=cityscapes. It has to be fetched by hand, after registration.

    python scripts/prepare_cityscapes.py --from ~/archives

makes, below --root, gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png (0 to 18, 255 ignored) and train.txt, val.txt.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path
import numpy as np

from maskclip.images.reading import read_mask
from maskclip.images.writing import write_mask
from maskclip.prepare.download import Archive
from maskclip.prepare.release import Release, arguments, classes, convert, existing, finish, listed, obtain, one_sentence, write_lines
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
    images={"train": 2975, "val": 500},
    wanted=lambda name: "/test/" not in name and name.endswith(("_gtFine_labelIds.png", "_leftImg8bit.png")),
    by_hand=f"Cityscapes asks for an account: register at {PAGE}, accept the licence, and download gtFine_trainvaltest.zip (241 MB) and "
    "leftImg8bit_trainvaltest.zip (11 GB).",
    folders=("leftImg8bit", "gtFine"),
    unpacked=8_200_000_000,
)
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The ids of the 19 classes that are evaluated; all others are ignored."""


def to_train_ids(source: Path, target: Path, palette: Palette) -> None:
    table = np.full(256, 255, dtype=np.uint8)
    table[list(IDS)] = np.arange(19)
    write_mask(target, table[read_mask(source)], palette)


def main() -> None:
    args = arguments([CITYSCAPES], __doc__).parse_args()
    root = args.root / "cityscapes"
    obtain([CITYSCAPES], root, args.source, args.verify)
    words, ends = classes("cityscapes19"), ("_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")
    print(root)
    found = {}
    for split in CITYSCAPES.images:
        images = listed(root / "leftImg8bit" / split, f"*/*{ends[0]}")
        names = [f"{split}/{p.parent.name}/{p.name.removesuffix(ends[0])}" for p in images]
        found[split] = existing({n: root / "gtFine" / f"{n}{ends[1]}" for n in names}, "labels")
    every = [name for names in found.values() for name in names]
    jobs = [(root / "gtFine" / f"{n}{ends[1]}", root / "gtFine" / f"{n}{ends[2]}") for n in every]
    convert(jobs, partial(to_train_ids, palette=words.colours), args.workers, "train ids")
    for split, names in found.items():
        write_lines(root / f"{split}.txt", names)
    finish(args, root, [CITYSCAPES], found, [target for _, target in jobs], words.names)


if __name__ == "__main__":
    one_sentence(main)
