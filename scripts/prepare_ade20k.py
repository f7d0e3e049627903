"""Prepare ADE20K (SceneParse150), for data=ade20k.

    python scripts/prepare_ade20k.py

Writes training.txt and validation.txt below --root in ADEChallengeData2016. The masks stay as published: classes are 1 to 150, 0 is
unlabelled.
"""

from __future__ import annotations

import checkout  # noqa: F401 - puts src on the path

from maskclip.errors import run_script
from maskclip.prepare.conversion import list_images, names_with_file, write_lines
from maskclip.prepare.download import Archive
from maskclip.prepare.release import Release, arguments, finish, obtain

ADE = Release(
    title="ADE20K (SceneParse150)",
    page="http://sceneparsing.csail.mit.edu",
    terms="images for non-commercial research and education; annotations BSD-3",
    archives=[
        Archive(
            "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            "ADEChallengeData2016.zip",
            967_382_037,
            "md5:7328b3957e407ddae1d3cbf487f149ef",
        )
    ],
    image_counts={"training": 20210, "validation": 2000},
    needed=lambda name: name.endswith((".jpg", ".png")),
    folders=("ADEChallengeData2016",),
    unpacked_bytes=950_000_000,
)


def main() -> None:
    args = arguments([ADE], __doc__).parse_args()
    obtain([ADE], args.root, args.source, args.verify)
    root = args.root / "ADEChallengeData2016"
    print(root)
    splits = {}
    for split in ADE.image_counts:
        names = [f"{split}/{path.stem}" for path in list_images(root / "images" / split, "*.jpg")]
        splits[split] = names_with_file({name: root / "annotations" / f"{name}.png" for name in names}, "a mask")
        write_lines(root / f"{split}.txt", splits[split])
    finish(args, args.root, [ADE], splits, "ade20k")


if __name__ == "__main__":
    run_script(main)
