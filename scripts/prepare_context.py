"""Pascal Context on the images of VOC 2010, for data=context59, data=context60 and data=context459.

    python scripts/prepare_context.py
    python scripts/prepare_context.py --voc 2012     # the same images from VOC 2012, which scripts/prepare_voc.py needs too

makes, below --root in VOCdevkit/VOC2010, SegmentationClassContext/ (0 background, 1 to 59), SegmentationClassContext459/
(16 bits, 0 to 458, 65535 where nothing is labelled) and ImageSets/SegmentationContext/{train,val}.txt, the published split.
Images that are there already, in VOCdevkit/VOC2010 or VOCdevkit/VOC2012, are not downloaded.
"""

from __future__ import annotations

import argparse
import json
import shutil
from functools import partial
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path
import numpy as np
from prepare_voc import ARCHIVE, LISTS
from scipy.io import loadmat

from maskclip.errors import InputError
from maskclip.files import replacing, writing
from maskclip.functional import WIDE_IGNORE_INDEX
from maskclip.images.writing import write_mask
from maskclip.prepare.download import Archive
from maskclip.prepare.release import (
    Release,
    arguments,
    candidates,
    classes,
    convert,
    existing,
    finish,
    obtain,
    one_sentence,
    read_lines,
    write_lines,
)
from maskclip.vocabulary import Palette

FLICKR = 'images from flickr: use must respect the flickr terms of use (see "Database Rights" on the page)'
VOC = Release(
    title="Pascal VOC 2010",
    page="https://thor.robots.ox.ac.uk/pascal/VOC/voc2010/",
    terms=FLICKR,
    archives=[
        Archive(
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
            "VOCtrainval_03-May-2010.tar",
            None,
            "md5:da459979d0c395079b5c75ee67908abb",
            ("http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",),
            rough_size=1_300_000_000,
        )
    ],
    images={"train": 4996, "val": 5104},
    wanted=lambda name: "/JPEGImages/" in name or name.endswith(LISTS),
    folders=("VOCdevkit/VOC2010",),
    unpacked=1_250_000_000,
)
VOC_2012 = Release(
    title="Pascal VOC 2012",
    page="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/",
    terms=FLICKR,
    archives=[ARCHIVE],
    images=VOC.images,
    wanted=VOC.wanted,
    selection="context",
    folders=("VOCdevkit/VOC2012",),
    unpacked=1_900_000_000,
)
RELEASES = {"2010": VOC, "2012": VOC_2012}
CONTEXT = Release(
    title="Pascal Context",
    page="https://roozbehm.info/pascal-context/",
    terms="annotations for research; images are those of VOC 2010",
    archives=[
        Archive(
            "https://roozbehm.info/pascal-context/trainval.tar.gz",
            "trainval.tar.gz",
            None,
            "md5:df034edb2c12aa7d33b42b20bb1796e3",
            ("https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",),
            rough_size=31_000_000,
        )
    ],
    images=VOC.images,
    wanted=lambda name: name.endswith(".mat"),
    folders=("trainval", "VOCdevkit/VOC2010"),
    unpacked=200_000_000,
)
LEFT_OUT = frozenset({"2008_003252", "2010_001592", "2010_001606"})
"""Images without annotations in the authors' JSON, which the published split of 4,996 and 5,104 images rests on."""
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


def main_lists(voc: Path) -> dict[str, list[str]]:
    return {split: read_lines(voc / "ImageSets" / "Main" / f"{split}.txt") for split in ("train", "val")}


def splits(voc: Path, mats: Path, lists: Path | None) -> dict[str, list[str]]:
    """The names of train and val: the published ones, or those of a JSON with "images", each with "file_name" and "phase"."""
    if lists is None:
        names = main_lists(voc)
        if voc.name != "VOC2010":  # later releases have images that Pascal Context does not have
            names = {split: [n for n in listed if (mats / f"{n}.mat").is_file()] for split, listed in names.items()}
        return {split: [name for name in listed if name not in LEFT_OUT] for split, listed in names.items()}
    try:
        images = json.loads(lists.read_text(encoding="utf-8"))["images"]
        return {split: [Path(i["file_name"]).stem for i in images if i["phase"] == split] for split in ("train", "val")}
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise InputError(f"{lists} (--lists) is not a list of images with file_name and phase: {cause}") from cause


def is_complete(voc: Path) -> bool:
    """Whether a folder has the lists of VOC and every image that they name, whichever program unpacked them."""
    if not all((voc / "ImageSets" / "Main" / f"{split}.txt").is_file() for split in ("train", "val")):
        return False
    return all((voc / "JPEGImages" / f"{name}.jpg").is_file() for names in main_lists(voc).values() for name in names)


def choose(args: argparse.Namespace) -> tuple[str, list[Release]]:
    """The year of the VOC to take images and lists from, and what is to be unpacked. The maps come first, they are small."""
    years = [args.voc] if args.voc else list(RELEASES)
    for year in years:
        if is_complete(args.root / "VOCdevkit" / f"VOC{year}"):
            return year, [CONTEXT]
    for year in years:
        if args.source and candidates(RELEASES[year].archives[0], args.source):
            return year, [CONTEXT, RELEASES[year]]
    return years[0], [CONTEXT, RELEASES[years[0]]]


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, which takes no space, or a copy where the disk has no links."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        with replacing(target) as partial:
            shutil.copyfile(source, partial)


def check(year: str, names: dict[str, list[str]]) -> None:
    """Raises if lists of VOC 2012 do not yield the published split: only those of 2010 are made for it."""
    counts = {split: len(listed) for split, listed in names.items()}
    if year != "2010" and counts != VOC.images:
        raise InputError(
            f"the lists of VOC {year} give {counts} images of Pascal Context instead of {VOC.images}: the release is not complete or "
            "another one; take the images from VOC 2010 with --voc 2010, or accept it with --no-verify"
        )


def main() -> None:
    parser = arguments([CONTEXT, *RELEASES.values()], __doc__)
    where = "release of VOC with the images (default: the one that is complete in --root, or in --from; otherwise 2010)"
    parser.add_argument("--voc", choices=tuple(RELEASES), help=where)
    parser.add_argument("--lists", type=Path, metavar="JSON", help="take the splits from a JSON like trainval_merged.json")
    args = parser.parse_args()
    year, releases = choose(args)
    obtain(releases, args.root, args.source, args.verify)
    source, voc, mats = args.root / "VOCdevkit" / f"VOC{year}", args.root / "VOCdevkit" / "VOC2010", args.root / "trainval"
    print(voc)
    names = splits(source, mats, args.lists)
    if args.verify and args.lists is None:
        check(year, names)
    found = {}
    for split, listed in names.items():
        pictured = existing({n: source / "JPEGImages" / f"{n}.jpg" for n in listed}, "a JPEG")
        found[split] = existing({n: mats / f"{n}.mat" for n in pictured}, "a label map")
    every = [name for listed in found.values() for name in listed]
    if source != voc:
        convert(
            [(source / "JPEGImages" / f"{n}.jpg", voc / "JPEGImages" / f"{n}.jpg") for n in every], link, args.workers, "linking images"
        )
    words, all_words = classes("context60"), classes("context459")
    for folder, function, palette in (("", to_59, words.colours), ("459", to_459, all_words.colours)):
        jobs = [(mats / f"{n}.mat", voc / f"SegmentationClassContext{folder}" / f"{n}.png") for n in every]
        convert(jobs, partial(function, palette=palette), args.workers, f"{folder or '59'} classes")
    for split, listed in found.items():
        write_lines(voc / "ImageSets" / "SegmentationContext" / f"{split}.txt", listed)
    masks = [voc / "SegmentationClassContext" / f"{n}.png" for n in every]
    finish(args, args.root, [CONTEXT, VOC] if year == "2010" else releases, found, masks, words.names)


if __name__ == "__main__":
    one_sentence(main)
