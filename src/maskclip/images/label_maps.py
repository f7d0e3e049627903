"""Read label maps that other programs or people have saved, by the colours of their classes where they have colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from maskclip.errors import InputError
from maskclip.images.reading import read_mask

Colour = tuple[int, int, int]


def read_label_map(path: Path, colours: Mapping[Colour, int]) -> np.ndarray:
    """Labels (H, W) of the file at `path`. Grey files store the labels themselves, files with colours are read by colour.

    `colours`: the label of each colour. Image editors reorder palettes or save masks as RGB, so that the colours of a file are
    more reliable than its palette indices. A palette without any of the `colours` is ignored, and its indices are the labels.

    Raises `InputError` if the file cannot be read, or if a colour has no label.
    """
    mode, palette = _mode_and_palette(path)
    if mode in ("RGB", "RGBA"):
        return _labels_of_colours(path, colours)
    indices = read_mask(path)
    if palette is None:
        return indices
    used = np.unique(indices)
    used_colours = {int(index): palette[index] for index in used if index < len(palette)}
    labels = {index: colours[colour] for index, colour in used_colours.items() if colour in colours}
    if not labels:
        return indices
    if unknown := sorted(set(used.tolist()) - set(labels)):
        raise InputError(
            f"the mask {path} has a palette in which value {unknown[0]} has a colour of no class, {used_colours.get(unknown[0], 'none')}: "
            "use the colours of the classes (legend.png), or save the class indices as a grey PNG"
        )
    table = np.zeros(int(used.max()) + 1, dtype=np.int64)
    table[list(labels)] = list(labels.values())
    return table[indices]


def _mode_and_palette(path: Path) -> tuple[str, list[Colour] | None]:
    """The mode of an image file, and its palette if it has one. Files that cannot be opened are left to `read_mask`."""
    try:
        with Image.open(path) as image:
            values = image.getpalette() if image.mode == "P" else None
            return image.mode, None if values is None else list(zip(values[::3], values[1::3], values[2::3], strict=True))
    except OSError:
        return "", None


def _labels_of_colours(path: Path, colours: Mapping[Colour, int]) -> np.ndarray:
    """Labels (H, W) of an RGB file."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    except OSError as cause:
        raise InputError(f"cannot read the mask {path}: {cause}") from cause
    codes = pixels @ (65536, 256, 1)
    labels = np.full(codes.shape, -1, dtype=np.int64)
    for (red, green, blue), label in colours.items():
        labels[codes == 65536 * red + 256 * green + blue] = label
    if (labels < 0).any():
        code, _ = Counter(codes[labels < 0].tolist()).most_common(1)[0]
        colour = (code >> 16, code >> 8 & 255, code & 255)
        raise InputError(
            f"{(labels < 0).sum()} pixels of the mask {path} have colours of no class, such as {colour}: use the colours of the classes "
            "(legend.png), and switch off smooth edges (anti-aliasing) in the image editor"
        )
    return labels
