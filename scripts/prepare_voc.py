"""Prepare Pascal VOC 2012 with the extra annotations of SBD, for data=voc20 and data=voc21.

    python scripts/prepare_voc.py
    python scripts/prepare_voc.py --from ~/archives

Writes two things below --root in VOCdevkit/VOC2012: SegmentationClassAug/ (index PNGs: VOC's masks, and SBD's for images without one)
and ImageSets/Segmentation/trainaug.txt (VOC's train split and all images of SBD, without VOC's val split).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path
from PIL import Image
from scipy.io import loadmat

from maskclip.errors import run_script
from maskclip.images.writing import write_atomically, write_mask
from maskclip.prepare.conversion import convert, names_with_file, read_lines, write_lines
from maskclip.prepare.download import Archive
from maskclip.prepare.release import Release, arguments, finish, obtain, read_classes
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
"""The lists of all images, which scripts/prepare_context.py needs."""
VOC = Release(
    title="Pascal VOC 2012",
    page="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/",
    terms='images from flickr: use must respect the flickr terms of use (see "Database Rights" on the page)',
    archives=[ARCHIVE],
    image_counts={"trainaug": 10582, "val": 1449},
    needed=lambda name: any(part in name for part in ("/JPEGImages/", "/SegmentationClass/", "/ImageSets/Segmentation/", *LISTS)),
    folders=("VOCdevkit/VOC2012",),
    unpacked_bytes=1_950_000_000,
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
    needed=lambda name: "/dataset/cls/" in name or name.endswith(("dataset/train.txt", "dataset/val.txt")),
    folders=("benchmark_RELEASE",),
    unpacked_bytes=60_000_000,
)


def sbd_mask(source: Path, target: Path, palette: Palette) -> None:
    """Write the segmentation in a .mat file of SBD (GTcls.Segmentation, 0 to 20) as an index PNG."""
    write_mask(target, loadmat(source, simplify_cells=True)["GTcls"]["Segmentation"], palette)


def voc_mask(source: Path, target: Path) -> None:
    """Copy a palette PNG of VOC. Objects have borders of 255."""
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
    convert([(voc / "SegmentationClass" / f"{n}.png", masks / f"{n}.png") for n in (*train, *val)], voc_mask, args.workers, "VOC's masks")
    to_png = partial(sbd_mask, palette=read_classes("voc21").colours)
    convert([(sbd / "cls" / f"{n}.mat", masks / f"{n}.png") for n in extra], to_png, args.workers, "SBD's masks")
    print(voc)
    splits = {
        split: names_with_file({name: voc / "JPEGImages" / f"{name}.jpg" for name in names}, "a JPEG")
        for split, names in (("trainaug", sorted([*train, *extra])), ("val", val))
    }
    write_lines(lists / "trainaug.txt", splits["trainaug"])
    finish(args, args.root, [VOC, SBD], splits, "voc21")


if __name__ == "__main__":
    run_script(main)
