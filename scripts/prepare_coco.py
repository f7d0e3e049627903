"""COCO-Stuff 164k and COCO-Object on the images of COCO 2017, for data=coco_stuff and data=coco_object.

    python scripts/prepare_coco.py                           # 43 GB of disk, 22 after --delete-archives
    python scripts/prepare_coco.py --splits val2017          # 2.4 GB of disk: enough to evaluate

makes, below --root, stuff171/{train2017,val2017}/ (0 to 170, 255 unlabelled), object81/{train2017,val2017}/ (0 background, 1 to 80)
and split files beside them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path
import numpy as np

from maskclip.errors import InputError
from maskclip.images.reading import read_mask
from maskclip.images.writing import write_mask
from maskclip.prepare.download import Archive
from maskclip.prepare.release import Release, arguments, classes, convert, existing, finish, listed, obtain, one_sentence, write_lines
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
    images={"train2017": 118287, "val2017": 5000},
)
STUFF = Release(
    title="COCO-Stuff's maps of stuff and things",
    page="https://github.com/nightrome/cocostuff",
    terms="annotations CC BY 4.0",
    archives=[MAPS],
    images={},
)
UNPACKED = {"train2017": (19_300_000_000, 1_900_000_000), "val2017": (810_000_000, 80_000_000)}
"""About how many bytes the images of a split take, and its maps and what they are converted to."""
HOLES = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
"""Values, 0 to 181, that no class has: COCO dropped these categories."""


def stuff_table() -> np.ndarray:
    """What becomes of each value of a map: 0 to 170 in order, 255 where there is no class."""
    table = np.full(256, 255, dtype=np.uint8)
    table[[value for value in range(182) if value not in HOLES]] = np.arange(171)
    return table


def object_table() -> np.ndarray:
    """What becomes of each value of a map: things 1 to 80, everything else background."""
    stuff = stuff_table().astype(int)
    return np.where(stuff < 80, stuff + 1, 0).astype(np.uint8)


def relabel(source: Path, target: Path, table: np.ndarray, palette: Palette) -> None:
    labels = read_mask(source)
    if labels.dtype != np.uint8:
        raise InputError(f"{source} is not a map of COCO-Stuff: it has more than 8 bits")
    write_mask(target, table[labels], palette)


def split_names(root: Path, split: str) -> list[str]:
    """Names of the images of a split that have a map, such as val2017/000000000139."""
    return existing({f"{split}/{p.stem}": root / split / f"{p.stem}.png" for p in listed(root / split, "*.jpg")}, "a map")


def parts(split: str) -> list[Release]:
    """What a split consists of: the maps first, because their server is the least reliable, then the images."""
    images, maps = UNPACKED[split]
    folders = tuple(f"{folder}/{split}" for folder in ("stuff171", "object81"))
    return [
        replace(STUFF, wanted=lambda name: f"{split}/" in name, selection=split, folders=folders, unpacked=maps),
        replace(COCO, archives=[IMAGES[split]], folders=(split,), unpacked=images),
    ]


def main() -> None:
    parser = arguments([COCO, STUFF], __doc__)
    parser.add_argument("--splits", nargs="+", choices=tuple(IMAGES), default=list(IMAGES), help="(default: both)")
    args = parser.parse_args()
    root = args.root / "coco"
    releases = sorted((part for split in dict.fromkeys(args.splits) for part in parts(split)), key=lambda part: part.title != STUFF.title)
    obtain(releases, root, args.source, args.verify)
    print(root)
    found = {split: split_names(root, split) for split in args.splits}
    for folder, table, words in (
        ("stuff171", stuff_table(), classes("coco_stuff171")),
        ("object81", object_table(), classes("coco_object")),
    ):
        names = [name for of_split in found.values() for name in of_split]
        function = partial(relabel, table=table, palette=words.colours)
        convert([(root / f"{n}.png", root / folder / f"{n}.png") for n in names], function, args.workers, folder)
        for split, of_split in found.items():
            write_lines(root / folder / f"{split}.txt", of_split)
    every = [root / "stuff171" / f"{name}.png" for names in found.values() for name in names]
    finish(args, root, releases, found, every, classes("coco_stuff171").names)


if __name__ == "__main__":
    one_sentence(main)
