"""Draw the textures data set: 13 classes, 400 training and 100 validation images, in seconds.

python scripts/prepare_textures.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from omegaconf import OmegaConf  # noqa: E402 - after the path, so that it runs from a checkout

from maskclip.data.release import one_sentence  # noqa: E402
from maskclip.data.textures_release import write_textures  # noqa: E402
from maskclip.vocabulary import Vocabulary  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT / "data" / "textures")
    parser.add_argument("--train", type=int, default=400, help="training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=100, help="validation images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    words = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "classes" / "textures.yaml"))
    counts = write_textures(args.root, Vocabulary(**words).colours, args.train, args.val, args.seed)
    print(f"{args.root}: " + ", ".join(f"{count} {split} images" for split, count in counts.items()))


if __name__ == "__main__":
    one_sentence(main)
