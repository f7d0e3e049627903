"""The textures data set on disk, in the layout of Pascal VOC: JPEGs, palette PNG masks and split files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from maskclip.errors import is_count, require
from maskclip.files import write_text
from maskclip.images.writing import write_atomically, write_mask
from maskclip.textures.scenes import draw_scene

SIDES = (80, 96, 112, 128)
"""Heights and widths of images; every combination occurs."""


def write_textures(
    root: Path, palette: Sequence[Sequence[int]], train: int = 400, val: int = 100, seed: int = 0, scale: int = 1
) -> dict[str, int]:
    """Draw `train` + `val` scenes below `root` and return the number of images in each split.

    Image i of a split depends on the seed, the split, i and the scale only. `scale` multiplies the sides of the images and the
    sizes of their regions; the textures keep their scale in pixels. Split files are written last: without them, the data set is
    incomplete.
    """
    require(is_count(scale), "scale", scale, "a whole number, at least 1")
    counts = {"train": train, "val": val}
    folder = root / "ImageSets" / "Segmentation"
    for split in counts:
        (folder / f"{split}.txt").unlink(missing_ok=True)
    bar = tqdm(total=train + val, unit="image", desc="drawing textures")
    names: dict[str, list[str]] = {split: [] for split in counts}
    for number, (split, count) in enumerate(counts.items()):
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            scene = draw_scene(rng, (scale * int(rng.choice(SIDES)), scale * int(rng.choice(SIDES))))
            name = f"{split}_{index:05d}"
            write_atomically(Image.fromarray(scene.image), root / "JPEGImages" / f"{name}.jpg", quality=95)
            write_mask(root / "SegmentationClass" / f"{name}.png", scene.mask, palette)
            names[split].append(name)
            bar.update()
    bar.close()
    for split, split_names in names.items():
        write_text(folder / f"{split}.txt", "\n".join(split_names) + "\n")
    return counts
