"""Convert decoded images to 8-bit sRGB: grey levels of more than 8 bits, and ICC profiles."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from maskclip.notices import warn_once

_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
_UNCACHED = 0x0040
"""cmsFLAGS_NOCACHE: without its cache of one pixel, a transform is thread-safe."""
_EXACT = 0x0100
"""cmsFLAGS_NOOPTIMIZE: otherwise grey curves are sampled at a few points, with errors of up to 9 levels."""


def eight_bit_grey(image: Image.Image) -> Image.Image:
    """The image with 16- and 32-bit grey levels scaled to 8 bits; images of other modes are not changed.

    White is 65535 in 16 bits, 4095 in a TIFF of 12 bits. For 32-bit integers and floats see `grey_range`.
    """
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    tags = getattr(image, "tag_v2", {})
    levels = np.asarray(image)
    if image.mode == "I" and tags.get(258) == (32,) and tags.get(339, (1,)) == (1,):
        levels = levels.view(np.uint32)  # Pillow has no unsigned mode
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))  # "I" in older versions of Pillow
    low, high = (0.0, _white_of_16_bits(levels, tags, image)) if sixteen else _range_with_warning(levels, image)
    unit = (levels.astype(np.float32) - low) / (high - low)
    scaled = (np.clip(np.nan_to_num(unit), 0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(255 - scaled if tags.get(262) == 0 else scaled)  # WhiteIsZero; Pillow inverts images of up to 8 bits only


def _white_of_16_bits(levels: np.ndarray, tags: Any, image: Image.Image) -> float:
    """The level of white. Logs a warning if the image is nearly black."""
    top = 2.0 ** tags.get(258, (16,))[0] - 1
    bright = np.count_nonzero(levels > top / 16)
    if bright <= levels.size / 1000 and levels.any():
        warn_once(
            "dark",
            f"{_name(image)} is nearly black: 99.9 % of its grey levels are below {top / 16:.0f}, and white is {top:.0f}. If the data "
            "has fewer bits than the file, scale it to the full range first. Other images may be affected too",
        )
    return top


def _range_with_warning(levels: np.ndarray, image: Image.Image) -> tuple[float, float]:
    """Levels of black and white, see `grey_range`. Logs them as a warning."""
    low, high = grey_range(levels)
    if high == np.nextafter(np.float32(low), np.float32(np.inf)):
        return low, high  # a single level
    warn_once(
        "grey range",
        f"{_name(image)} has {'floating-point' if image.mode == 'F' else '32-bit'} grey levels, which have no defined range: "
        f"{low:.6g} becomes black and {high:.6g} white. The range is chosen for each such image",
    )
    return low, high


def grey_range(levels: np.ndarray) -> tuple[float, float]:
    """Levels of black and white for grey levels (any shape) of a type without a defined range.

    The result is the first of the ranges 0 to 1 (floats only), 0 to 255 and 0 to 65535 that contains the 0.1 and 99.9
    percentiles (with a tolerance of 1 % at both ends), if the upper percentile is at least a sixteenth of it. Otherwise it is
    the two percentiles. NaN and infinity are ignored.
    """
    finite = levels[np.isfinite(levels)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(level) for level in np.percentile(finite, (0.1, 99.9)))
    tops = (255.0, 65535.0) if np.issubdtype(levels.dtype, np.integer) else (1.0, 255.0, 65535.0)
    top = next((top for top in tops if high <= 1.01 * top), 0.0)
    if low >= -0.01 * top and high >= top / 16 > 0:
        return 0.0, top
    return low, max(high, float(np.nextafter(np.float32(low), np.float32(np.inf))))


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """8-bit sRGB version of an image, without transparency; the ICC `profile`, if any, converts its colours.

    A profile that cannot be read or is for other channels is ignored with a warning.
    """
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    try:
        conversion = _conversion(profile) if profile else _lab() if image.mode == "LAB" else None
        if conversion is not None and (source := _channels(image, conversion.mode)) is not None:
            return source.convert("RGB") if conversion.transform is None else _apply(conversion.transform, source)
        problem = f"an ICC profile for {conversion.mode}, but mode {image.mode}" if conversion is not None else ""
    except Exception as cause:  # littleCMS raises its own errors, and may be missing
        problem = f"a damaged ICC profile ({cause})"
    if problem:
        warn_once("profile", f"{_name(image)} has {problem}: its colours are interpreted as sRGB. Other images may be affected too")
    return image.convert("RGB")


class _Conversion(NamedTuple):
    """Conversion of pixels of a `mode` to sRGB; `transform` is None if they are sRGB already."""

    mode: str
    transform: ImageCms.ImageCmsTransform | None


@lru_cache(maxsize=32)
def _conversion(profile: bytes) -> _Conversion:
    opened = ImageCms.ImageCmsProfile(BytesIO(profile))
    mode = _SPACES[opened.profile.xcolor_space]
    transform = _transform(opened, mode)
    if mode in ("RGB", "L"):  # profiles of sRGB have many names, but do not change colours
        cube = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 15, dtype=np.uint8)]), axis=-1).reshape(1, -1, 3)
        colours = Image.fromarray(cube if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
        change = np.asarray(_apply(transform, colours)).astype(int) - np.asarray(colours.convert("RGB"))
        if np.abs(change).max() <= 2:
            return _Conversion(mode, None)
    return _Conversion(mode, transform)


@lru_cache(maxsize=1)
def _lab() -> _Conversion:
    return _Conversion("LAB", _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB"))


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    flags = _UNCACHED | (_EXACT if mode == "L" else 0)
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)  # type: ignore[arg-type]  # ImageCms.Flags is newer than Pillow 10.1


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    result = Image.new("RGB", image.size)
    transform.apply(image, result)
    return result


def _channels(image: Image.Image, mode: str) -> Image.Image | None:
    """The image in the mode of a profile; None if the profile is for other images."""
    if image.mode == mode:
        return image
    if mode == "RGB" and image.mode not in ("CMYK", "LAB"):
        return image.convert("RGB")
    return image.convert("L") if mode == "L" and image.mode in ("1", "LA") else None


def _name(image: Image.Image) -> str:
    return str(getattr(image, "filename", "")) or "An image"
