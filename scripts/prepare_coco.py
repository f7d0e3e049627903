"""Prepare COCO-Stuff 164k and COCO-Object on the images of COCO 2017, for data=coco_stuff and data=coco_object.

    python scripts/prepare_coco.py                           # 43 GB of disk, 22 GB with --delete-archives
    python scripts/prepare_coco.py --splits val2017          # 2.4 GB of disk, enough for evaluation

Writes masks below --root in coco: stuff171/{train2017,val2017}/ (classes 0 to 170, 255 unlabelled) and object81/{train2017,val2017}/
(0 background, classes 1 to 80), each with split files.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path
import numpy as np

from maskclip.errors import InputError, run_script
from maskclip.functional import IGNORE_INDEX
from maskclip.images.reading import read_mask
from maskclip.images.writing import write_mask
from maskclip.prepare.conversion import convert, list_images, names_with_file, write_lines
from maskclip.prepare.download import Archive
from maskclip.prepare.release import Release, arguments, finish, obtain, read_classes
from maskclip.vocabulary import Palette

IMAGES = {
    "train2017": Archive(
        "http://images.cocodataset.org/zips/train2017.zip", "train2017.zip", 19_336_861_798, "md5:cced6f7f71b7629ddf16f17bbcfab6b2"
    ),
    "val2017": Archive(
        "http://images.cocodataset.org/zips/val2017.zip", "val2017.zip", 815_585_330, "md5:442b8da7639aecaf257c1dceb8ba8c80"
    ),
}
MAPS = Archive(
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
    "stuffthingmaps_trainval2017.zip",
    rough_size=659_000_000,
)
COCO = Release(
    title="COCO 2017",
    page="https://cocodataset.org",
    terms="annotations CC BY 4.0; images from flickr, whose terms of use apply",
    archives=list(IMAGES.values()),
    image_counts={"train2017": 118287, "val2017": 5000},
)
STUFF = Release(
    title="COCO-Stuff label maps",
    page="https://github.com/nightrome/cocostuff",
    terms="annotations CC BY 4.0",
    archives=[MAPS],
)
BYTES = {"train2017": (19_300_000_000, 1_900_000_000), "val2017": (810_000_000, 80_000_000)}
"""The approximate size of the images of a split, and of its label maps with the converted masks."""
UNUSED = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
"""Values from 0 to 181 without a class: COCO dropped these categories."""


def stuff_table() -> np.ndarray:
    """The class 0 to 170 of each value of a label map, (256,) uint8; 255 for values without a class."""
    table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    table[[value for value in range(182) if value not in UNUSED]] = np.arange(171)
    return table


def object_table() -> np.ndarray:
    """The class of each value of a label map, (256,) uint8: 1 to 80 for things, 0 (background) for everything else."""
    stuff = stuff_table().astype(int)
    return np.where(stuff < 80, stuff + 1, 0).astype(np.uint8)


def relabel(source: Path, target: Path, table: np.ndarray, palette: Palette) -> None:
    """Write a label map as a mask whose values are those of `table`."""
    labels = read_mask(source)
    if labels.dtype != np.uint8:
        raise InputError(f"{source} is not a label map of COCO-Stuff: it has more than 8 bits")
    write_mask(target, table[labels], palette)


def split_names(root: Path, split: str) -> list[str]:
    """Names of the images of a split that have a label map, such as val2017/000000000139."""
    names = [f"{split}/{path.stem}" for path in list_images(root / split, "*.jpg")]
    return names_with_file({name: root / f"{name}.png" for name in names}, "a label map")


def parts(split: str) -> list[Release]:
    """The label maps and the images of a split."""
    images, maps = BYTES[split]
    folders = tuple(f"{folder}/{split}" for folder in ("stuff171", "object81"))
    return [
        replace(STUFF, needed=lambda name: f"{split}/" in name, selection=split, folders=folders, unpacked_bytes=maps),
        replace(COCO, archives=[IMAGES[split]], folders=(split,), unpacked_bytes=images),
    ]


def main() -> None:
    parser = arguments([COCO, STUFF], __doc__)
    parser.add_argument("--splits", nargs="+", choices=tuple(IMAGES), default=list(IMAGES), help="splits to prepare (default: both)")
    args = parser.parse_args()
    root = args.root / "coco"
    # the label maps of all splits first: their server is the least reliable
    releases = sorted((part for split in dict.fromkeys(args.splits) for part in parts(split)), key=lambda part: part.title != STUFF.title)
    obtain(releases, root, args.source, args.verify)
    print(root)
    splits = {split: split_names(root, split) for split in args.splits}
    for folder, table, classes in (("stuff171", stuff_table(), "coco_stuff171"), ("object81", object_table(), "coco_object")):
        jobs = [(root / f"{name}.png", root / folder / f"{name}.png") for names in splits.values() for name in names]
        convert(jobs, partial(relabel, table=table, palette=read_classes(classes).colours), args.workers, folder)
        for split, names in splits.items():
            write_lines(root / folder / f"{split}.txt", names)
    finish(args, root, releases, splits, "coco_stuff")


if __name__ == "__main__":
    run_script(main)
