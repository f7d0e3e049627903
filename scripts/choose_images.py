"""Copy the label maps to correct first: those that the teacher is least confident about.

    python scripts/choose_images.py outputs/labels corrected/ --count 20

FOLDER is the output of src/segment.py with 'soft=[confidence]', or the folder of pseudo_labels=precomputed. Correct the copies in an
image editor and train with data.corrected=corrected/. Copies that you do not want to correct must be removed: they count as labelled.

With --truth, masks of the ground truth are copied instead, to simulate a person.
"""

from __future__ import annotations

import argparse
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path

from maskclip.errors import InputError, run_script
from maskclip.images.reading import read_mask

SUFFIX = ".png"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder with the subfolders masks and confidence")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the copies; files in it are never replaced")
    parser.add_argument("--count", type=int, default=20, help="number of images (default: %(default)s)")
    parser.add_argument("--random", type=int, metavar="SEED", help="choose images at random instead, for comparison")
    parser.add_argument("--truth", type=Path, metavar="MASKS", help="folder of ground truth, cat.png for the image cat.jpg")
    return parser.parse_args()


def least_confident(folder: Path, seed: int | None = None) -> list[Path]:
    """The label maps below `folder`/masks, relative to it: by mean confidence, lowest first, or in a random order.

    Raises `InputError` if a label map has no confidence.
    """
    maps = sorted(path.relative_to(folder / "masks") for path in (folder / "masks").rglob(f"*{SUFFIX}"))
    if not maps:
        raise InputError(f"no label maps in {folder / 'masks'}: give the output of src/segment.py with 'soft=[confidence]'")
    if seed is not None:
        return random.Random(seed).sample(maps, len(maps))
    missing = [path for path in maps if not (folder / "confidence" / path).is_file()]
    if missing:
        raise InputError(f"no confidence {folder / 'confidence' / missing[0]}: run src/segment.py with 'soft=[confidence]'")
    with ThreadPoolExecutor() as threads:
        means = list(threads.map(lambda path: float(read_mask(folder / "confidence" / path).mean()), maps))
    return [path for _, path in sorted(zip(means, maps, strict=True))]


def main() -> None:
    args = arguments()
    if args.count < 1:
        raise InputError(f"--count {args.count}: give a number of images, at least 1")
    chosen = least_confident(args.folder, args.random)[: args.count]
    copies = [args.output / path for path in chosen]
    if existing := [path for path in copies if path.exists()]:
        raise InputError(f"{existing[0]} exists and may be corrected already: use another OUTPUT, or move it away")
    sources = [args.folder / "masks" / path if args.truth is None else args.truth / (Path(path.stem).stem + SUFFIX) for path in chosen]
    if missing := [path for path in sources if not path.is_file()]:
        raise InputError(f"no mask {missing[0]} (--truth): give the folder of the ground truth")
    for source, copy in zip(sources, copies, strict=True):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    print(f"{args.output}: {len(copies)} label maps to correct")


if __name__ == "__main__":
    run_script(main)
