"""Images and masks as files, written atomically."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from maskclip.files import replacing
from maskclip.functional import IGNORE_INDEX

IGNORED_COLOUR = (224, 224, 192)
"""The colour of ignored pixels in masks, VOC's off-white."""


def write_mask(path: Path, labels: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
    """Write labels (H, W) as a palette PNG with ignored pixels in VOC's off-white, or as 16-bit grey for more than 254 classes."""
    if len(palette) > 254:
        write_atomically(Image.fromarray(labels.astype(np.uint16)), path)
        return
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE_INDEX] = IGNORED_COLOUR
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(colours.tobytes())
    write_atomically(image, path)


def write_atomically(image: Image.Image, path: Path, **options: object) -> None:
    """Save an image so that an interruption at any moment leaves no partial file at `path`. `options`: see `Image.save`."""
    with replacing(path) as partial:
        image.save(partial, format={".jpg": "JPEG", ".png": "PNG"}[path.suffix], **options)
