"""Pascal Context on the images of VOC 2010, for data=context59, data=context60 and data=context459.

    python scripts/prepare_context.py
    python scripts/prepare_context.py --from ~/archives --lists trainval_merged.json

makes, below --root, SegmentationClassContext/ (0 background, 1 to 59), SegmentationClassContext459/ (16 bits, 0 to 458,
65535 where nothing is labelled) and ImageSets/SegmentationContext/{train,val}.txt.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import numpy as np  # noqa: E402 - after the path, so that it runs from a checkout
from scipy.io import loadmat  # noqa: E402

from maskclip.data.download import Archive  # noqa: E402
from maskclip.data.images import write_mask  # noqa: E402
from maskclip.data.release import (  # noqa: E402
    Release,
    arguments,
    classes,
    convert,
    existing,
    finish,
    obtain,
    one_sentence,
    read_lines,
    report,
    write_lines,
)
from maskclip.errors import InputError  # noqa: E402
from maskclip.functional import WIDE_IGNORE_INDEX  # noqa: E402
from maskclip.vocabulary import Palette  # noqa: E402

VOC = Release(
    title="Pascal VOC 2010",
    page="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/",
    terms='images from flickr: use must respect the flickr terms of use (see "Database Rights" on the page)',
    archives=[
        Archive(
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
            "VOCtrainval_03-May-2010.tar",
            None,
            "md5:da459979d0c395079b5c75ee67908abb",
        )
    ],
    images={"train": 4996, "val": 5104},
    wanted=lambda name: "/JPEGImages/" in name or name.endswith(("/ImageSets/Main/train.txt", "/ImageSets/Main/val.txt")),
)
CONTEXT = Release(
    title="Pascal Context",
    page="https://cs.stanford.edu/~roozbeh/pascal-context/",
    terms="annotations for research; images are those of VOC 2010",
    archives=[Archive("https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz", "trainval.tar.gz")],
    images={},
    wanted=lambda name: name.endswith(".mat"),
)
WHY = (
    "VOC's own lists have 4,998 and 5,105; the list that mmsegmentation distributes (trainval_merged.json), on which "
    "published numbers rest, leaves out three images. Give it with --lists to have exactly those"
)
IDS = (2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159, 162, 187, 189)
IDS += (207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440)
IDS += (445, 454, 458)
"""The ids, 1 to 459, of the 59 classes, which are in alphabetical order in both."""


def label_map(source: Path) -> np.ndarray:
    """The 459-class ids (H, W) in a .mat file of Pascal Context (LabelMap); 0 is nothing."""
    return loadmat(source)["LabelMap"].astype(np.int64)


def to_59(source: Path, target: Path, palette: Palette) -> None:
    table = np.zeros(460, dtype=np.uint8)
    table[list(IDS)] = np.arange(1, 60)
    write_mask(target, table[label_map(source)], palette)


def to_459(source: Path, target: Path, palette: Palette) -> None:
    ids = label_map(source)
    write_mask(target, np.where(ids == 0, WIDE_IGNORE_INDEX, ids - 1), palette)


def splits(voc: Path, lists: Path | None) -> dict[str, list[str]]:
    """The names of train and val: VOC's, or those of a JSON with "images", each with "file_name" and "phase"."""
    if lists is None:
        return {split: read_lines(voc / "ImageSets" / "Main" / f"{split}.txt") for split in ("train", "val")}
    try:
        images = json.loads(lists.read_text(encoding="utf-8"))["images"]
        return {split: [Path(i["file_name"]).stem for i in images if i["phase"] == split] for split in ("train", "val")}
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise InputError(f"{lists} (--lists) is not a list of images with file_name and phase: {cause}") from cause


def main() -> None:
    parser = arguments([VOC, CONTEXT], __doc__)
    parser.add_argument("--lists", type=Path, metavar="JSON", help="take the splits from trainval_merged.json")
    args = parser.parse_args()
    for release in (VOC, CONTEXT):
        obtain(release, args.root, args.source, not args.no_verify)
    voc, mats = args.root / "VOCdevkit" / "VOC2010", args.root / "trainval"
    print(voc)
    found = {}
    for split, names in splits(voc, args.lists).items():
        pictured = existing({n: voc / "JPEGImages" / f"{n}.jpg" for n in names}, "a picture")
        found[split] = existing({n: mats / f"{n}.mat" for n in pictured}, "a label map")
    names = [name for listed in found.values() for name in listed]
    words, all_words = classes("context60"), classes("context459")
    for folder, function, palette in (("", to_59, words.colours), ("459", to_459, all_words.colours)):
        jobs = [(mats / f"{n}.mat", voc / f"SegmentationClassContext{folder}" / f"{n}.png") for n in names]
        convert(jobs, partial(function, palette=palette), args.workers, f"{folder or '59'} classes")
    for split, listed in found.items():
        write_lines(voc / "ImageSets" / "SegmentationContext" / f"{split}.txt", listed)
    report(VOC, {split: len(listed) for split, listed in found.items()}, dict.fromkeys(VOC.images, WHY))
    finish(args.root, [voc / "SegmentationClassContext" / f"{n}.png" for n in names], args.workers, words.names)


if __name__ == "__main__":
    one_sentence(main)
