"""ADE20K, SceneParse150 as distributed, for data=ade20k.

    python scripts/prepare_ade20k.py

makes, below --root, training.txt and validation.txt. The masks stay as they are: 0 is nothing, classes are 1 to 150.
"""

from __future__ import annotations

import checkout  # noqa: F401 - puts src on the path

from maskclip.prepare.download import Archive
from maskclip.prepare.release import Release, arguments, classes, existing, finish, listed, obtain, one_sentence, write_lines

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
    images={"training": 20210, "validation": 2000},
    wanted=lambda name: name.endswith((".jpg", ".png")),
    folders=("ADEChallengeData2016",),
    unpacked=950_000_000,
)


def main() -> None:
    args = arguments([ADE], __doc__).parse_args()
    obtain([ADE], args.root, args.source, args.verify)
    root = args.root / "ADEChallengeData2016"
    print(root)
    found = {}
    for split in ADE.images:
        names = [f"{split}/{path.stem}" for path in listed(root / "images" / split, "*.jpg")]
        found[split] = existing({name: root / "annotations" / f"{name}.png" for name in names}, "a mask")
        write_lines(root / f"{split}.txt", found[split])
    masks = [root / "annotations" / f"{name}.png" for names in found.values() for name in names]
    finish(args, args.root, [ADE], found, masks, classes("ade150").names, first=1, ignored=0)


if __name__ == "__main__":
    one_sentence(main)
