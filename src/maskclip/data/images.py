"""Reading pictures as a viewer shows them and masks as they are stored; writing label maps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from maskclip.errors import InputError
from maskclip.files import replacing

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB: turned by its EXIF tag, 16-bit scaled down, transparency laid over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16- and 32-bit grey: PIL's convert would clip, not scale
        grey = np.asarray(image, dtype=np.float64)
        top = 65535.0 if grey.max(initial=0) > 255 or image.mode.startswith("I;16") else 255.0
        if image.mode == "F" and grey.max(initial=0) <= 1:
            top = 1.0
        image = Image.fromarray((np.clip(grey / top, 0, 1) * 255 + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def read_image(path: Path) -> np.ndarray:
    """The picture at `path` as a viewer shows it, (H, W, 3) uint8 RGB. Raises `InputError` if it cannot be decoded."""
    try:
        with Image.open(path) as image:
            return np.array(to_rgb(image))
    except FileNotFoundError:
        raise InputError(f"no such image: {path}") from None
    except Exception as cause:  # decoders raise whatever they like at a broken file
        raise InputError(f"cannot read the image {path}: {cause}") from cause


def broken_images(paths: Sequence[Path]) -> dict[Path, str]:
    """Those pictures that cannot be read, and why, in order; all are decoded, on several threads."""

    def problem(path: Path) -> str | None:
        try:
            read_image(path)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = tqdm(threads.map(problem, paths), total=len(paths), desc="reading all pictures", unit="image", disable=len(paths) < 200)
        return {path: why for path, why in zip(paths, found, strict=True) if why is not None}


def read_mask(path: Path) -> np.ndarray:
    """The class indices stored in the PNG at `path`, (H, W), uint8 or wider as stored. Raises `InputError` if it is not an index mask."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1", "I;16", "I"):
                raise InputError(f"the mask {path} has mode {image.mode}: an index mask has one channel, palette or grey PNG (data.masks)")
            labels = np.array(image)
            return labels.astype(np.uint8) if labels.dtype == bool else labels
    except FileNotFoundError:
        raise InputError(f"no such mask: {path}") from None
    except InputError:
        raise
    except Exception as cause:
        raise InputError(f"cannot read the mask {path}: {cause}") from cause


def write_mask(path: Path, labels: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
    """Write labels (H, W) as a palette PNG, index 255 in VOC's off-white; with more than 254 classes as 16-bit grey. Atomic."""
    if len(palette) > 254:
        write_atomically(Image.fromarray(labels.astype(np.uint16)), path)
        return
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    colours[255] = (224, 224, 192)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(colours.tobytes())
    write_atomically(image, path)


def write_atomically(image: Image.Image, path: Path, **options: object) -> None:
    """Save a picture so that a kill at any moment leaves no half-written file under its name."""
    with replacing(path) as partial:
        image.save(partial, format={".jpg": "JPEG", ".png": "PNG"}[path.suffix], **options)
