"""From the numbers of a decoded image to 8-bit sRGB: deep grey levels and ICC profiles."""

from __future__ import annotations

import numpy as np
from PIL import Image


def eight_bit_grey(image: Image.Image) -> Image.Image:
    """The image, with 16- and 32-bit grey scaled to 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":  # PIL's convert would clip, not scale
        grey = np.asarray(image, dtype=np.float64)
        top = 65535.0 if grey.max(initial=0) > 255 or image.mode.startswith("I;16") else 255.0
        if image.mode == "F" and grey.max(initial=0) <= 1:
            top = 1.0
        return Image.fromarray((np.clip(grey / top, 0, 1) * 255 + 0.5).astype(np.uint8))
    return image


def srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image as 8-bit sRGB without its transparency."""
    return image.convert("RGB")
