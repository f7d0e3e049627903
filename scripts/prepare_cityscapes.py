"""Cityscapes, fine annotations, for data=cityscapes. It has to be fetched by hand, after registration.

    python scripts/prepare_cityscapes.py --from ~/archives

makes, below --root, gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png (0 to 18, 255 ignored) and train.txt, val.txt.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import numpy as np  # noqa: E402 - after the path, so that it runs from a checkout

from maskclip.data.download import Archive  # noqa: E402
from maskclip.data.images import read_mask, write_mask  # noqa: E402
from maskclip.data.release import Release, arguments, classes, convert, existing, finish, obtain, one_sentence, report, write_lines  # noqa: E402
from maskclip.errors import InputError  # noqa: E402
from maskclip.vocabulary import Palette  # noqa: E402

PAGE = "https://www.cityscapes-dataset.com/downloads/"
CITYSCAPES = Release(
    title="Cityscapes",
    page=PAGE,
    terms="non-commercial research and teaching, after registration",
    archives=[Archive(PAGE, "gtFine_trainvaltest.zip"), Archive(PAGE, "leftImg8bit_trainvaltest.zip")],
    images={"train": 2975, "val": 500},
    wanted=lambda name: "/test/" not in name and name.endswith(("_gtFine_labelIds.png", "_leftImg8bit.png")),
    by_hand=f"Cityscapes asks for an account: register at {PAGE}, accept the licence, and download gtFine_trainvaltest.zip (241 MB) and "
    "leftImg8bit_trainvaltest.zip (11 GB).",
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
    obtain(CITYSCAPES, root, args.source, not args.no_verify)
    words, ends = classes("cityscapes19"), ("_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")
    print(root)
    found = {}
    for split in CITYSCAPES.images:
        pictures = sorted((root / "leftImg8bit" / split).glob(f"*/*{ends[0]}"))
        if not pictures:
            raise InputError(f"no images in {root / 'leftImg8bit' / split}")
        names = [f"{split}/{p.parent.name}/{p.name.removesuffix(ends[0])}" for p in pictures]
        found[split] = existing({n: root / "gtFine" / f"{n}{ends[1]}" for n in names}, "labels")
    listed = [name for names in found.values() for name in names]
    jobs = [(root / "gtFine" / f"{n}{ends[1]}", root / "gtFine" / f"{n}{ends[2]}") for n in listed]
    convert(jobs, partial(to_train_ids, palette=words.colours), args.workers, "train ids")
    for split, names in found.items():
        write_lines(root / f"{split}.txt", names)
    report(CITYSCAPES, {split: len(names) for split, names in found.items()})
    finish(root, [target for _, target in jobs], args.workers, words.names)


if __name__ == "__main__":
    one_sentence(main)
