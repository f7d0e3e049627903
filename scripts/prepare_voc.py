"""Pascal VOC 2012 with the extra annotations of SBD, for data=voc20 and data=voc21.

    python scripts/prepare_voc.py
    python scripts/prepare_voc.py --from ~/archives

makes, below --root, SegmentationClassAug/ (index PNGs: VOC's own masks, SBD's where VOC has none) and
ImageSets/Segmentation/trainaug.txt (VOC's train and all of SBD, without VOC's val).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path
from PIL import Image
from scipy.io import loadmat

from maskclip.images.writing import write_atomically, write_mask
from maskclip.prepare.download import Archive
from maskclip.prepare.release import Release, arguments, classes, convert, existing, finish, obtain, one_sentence, read_lines, write_lines
from maskclip.vocabulary import Palette

ARCHIVE = Archive(
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "VOCtrainval_11-May-2012.tar",
    1_999_639_040,
    "md5:6cd6e144f989b92b3379bac3b3de84fd",
    (
        "https://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    ),
)
LISTS = ("/ImageSets/Main/train.txt", "/ImageSets/Main/val.txt")
"""All images of VOC 2012: scripts/prepare_context.py can take its images from there."""
VOC = Release(
    title="Pascal VOC 2012",
    page="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/",
    terms='images from flickr: use must respect the flickr terms of use (see "Database Rights" on the page)',
    archives=[ARCHIVE],
    images={"trainaug": 10582, "val": 1449},
    wanted=lambda name: any(part in name for part in ("/JPEGImages/", "/SegmentationClass/", "/ImageSets/Segmentation/", *LISTS)),
    folders=("VOCdevkit/VOC2012",),
    unpacked=1_950_000_000,
)
SBD = Release(
    title="Semantic Boundaries Dataset",
    page="http://home.bharathh.info/pubs/codes/SBD/download.html",
    terms="annotations for research; images are those of VOC",
    archives=[
        Archive(
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
            "benchmark.tgz",
            1_419_539_633,
            "md5:82b4d87ceb2ed10f6038a1cba92111cb",
        )
    ],
    images={},
    wanted=lambda name: "/dataset/cls/" in name or name.endswith(("dataset/train.txt", "dataset/val.txt")),
    folders=("benchmark_RELEASE",),
    unpacked=60_000_000,
)


def sbd_mask(source: Path, target: Path, palette: Palette) -> None:
    """Write the segmentation in a .mat file of SBD (GTcls.Segmentation, 0 to 20) as an index PNG."""
    write_mask(target, loadmat(source, simplify_cells=True)["GTcls"]["Segmentation"], palette)


def voc_mask(source: Path, target: Path) -> None:
    """Copy a palette PNG of VOC, whose objects have borders of 255."""
    with Image.open(source) as image:
        image.load()
        write_atomically(image, target)


def main() -> None:
    args = arguments([VOC, SBD], __doc__).parse_args()
    obtain([VOC, SBD], args.root, args.source, args.verify)
    voc, sbd = args.root / "VOCdevkit" / "VOC2012", args.root / "benchmark_RELEASE" / "dataset"
    lists, masks = voc / "ImageSets" / "Segmentation", voc / "SegmentationClassAug"
    train, val = read_lines(lists / "train.txt"), read_lines(lists / "val.txt")
    extra = sorted({*read_lines(sbd / "train.txt"), *read_lines(sbd / "val.txt")} - {*train, *val})
    words = classes("voc21")
    convert([(voc / "SegmentationClass" / f"{n}.png", masks / f"{n}.png") for n in (*train, *val)], voc_mask, args.workers, "VOC's masks")
    to_png = partial(sbd_mask, palette=words.colours)
    convert([(sbd / "cls" / f"{n}.mat", masks / f"{n}.png") for n in extra], to_png, args.workers, "SBD's masks")
    splits = {"trainaug": sorted([*train, *extra]), "val": val}
    found = {split: existing({n: voc / "JPEGImages" / f"{n}.jpg" for n in names}, "a JPEG") for split, names in splits.items()}
    write_lines(lists / "trainaug.txt", found["trainaug"])
    print(voc)
    every = [masks / f"{n}.png" for names in found.values() for n in names]
    finish(args, args.root, [VOC, SBD], found, every, words.names)


if __name__ == "__main__":
    one_sentence(main)
