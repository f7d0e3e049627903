"""Draw the textures data set: 13 classes, 400 training and 100 validation images. Takes a few seconds.

python scripts/prepare_textures.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path

from maskclip.errors import run_script
from maskclip.prepare.release import default_root, read_classes
from maskclip.textures.dataset import write_textures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=default_root() / "textures", help="folder to write to (default: %(default)s)")
    parser.add_argument("--train", type=int, default=400, help="training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=100, help="validation images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawing (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=1, help="factor on the sides of the images, such as 2 (default: %(default)s)")
    args = parser.parse_args()
    counts = write_textures(args.root, read_classes("textures").colours, args.train, args.val, args.seed, args.scale)
    print(f"{args.root}: " + ", ".join(f"{count} {split} images" for split, count in counts.items()))


if __name__ == "__main__":
    run_script(main)
