"""Read images as a viewer shows them and masks as they are stored; which files are images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from maskclip.errors import InputError
from maskclip.images.colour import eight_bit_grey, to_srgb

with suppress(ImportError):
    from pillow_heif import register_heif_opener  # an optional package

    register_heif_opener()

_FORMATS = {"AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"}
"""Formats of cameras, scanners and drawing programs; Pillow's other formats are icons, documents and scientific containers."""

IMAGE_SUFFIXES = frozenset(
    suffix
    for suffix, name in Image.registered_extensions().items()
    if name in _FORMATS and suffix not in (".icb", ".vda", ".vst", ".bw", ".rgb", ".rgba")  # usually files of other programs
)
"""Suffixes (lower case) of the images that this installation can read; `.avif` and `.heic` need optional packages."""

PAGED_SUFFIXES = IMAGE_SUFFIXES & {".tif", ".tiff", ".gif", ".webp", ".png", ".apng", ".avif", ".avifs"}
"""Suffixes of files that may contain several images."""

_REMEDIES = {
    "pip install pillow-heif": ".heic .heics .heif .heifs .hif",
    "pip install -U 'pillow>=11.3'": ".avif .avifs",
    "develop the raw files to JPEG or TIFF": (
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mrw .nef .nrw .orf .pef .raf .raw .rw2 .sr2 .srf .srw .x3f"
    ),
    "render the drawings to PNG": ".ai .cdr .eps .emf .svg .svgz .wmf",
    "export the projects as PNG": ".afphoto .clip .kra .psb .psd .xcf",
    "convert the files to PNG or TIFF": (
        ".czi .dcm .djvu .exr .fit .fits .hdr .jxl .jxr .lif .mrxs .nd2 .ndpi .pcd .svs .vsi .wdp .webp .xbm .xpm"
    ),
}
KNOWN_UNREADABLE = {suffix: remedy for remedy, suffixes in _REMEDIES.items() for suffix in suffixes.split() if suffix not in IMAGE_SUFFIXES}
"""Suffixes (lower case) of images that this installation cannot read, each with a remedy."""

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the operation that displays the image."""


def to_rgb(image: Image.Image, exif: bool = True) -> Image.Image:
    """8-bit sRGB version of an image, as a viewer shows it.

    This applies the EXIF orientation (unless `exif` is False), scales grey levels of more than 8 bits, converts colours with the
    ICC profile, and composites transparent images over white.
    """
    transposition = _load_and_transposition(image, exif)
    profile = image.info.get("icc_profile")
    image = eight_bit_grey(image)
    rgb = to_srgb(image, profile)
    if image.has_transparency_data:
        rgba = rgb.convert("RGBA")
        rgba.putalpha(image.convert("RGBA").getchannel("A"))
        rgb = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return rgb if transposition is None else rgb.transpose(transposition)


def orientation(image: Image.Image) -> int:
    """EXIF orientation of an image, 1 to 8; 1 means that it is displayed as stored."""
    with suppress(Exception):  # the EXIF block is damaged, but the pixels may not be
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in _TRANSPOSITIONS else 1
    return 1


def _load_and_transposition(image: Image.Image, exif: bool) -> Image.Transpose | None:
    """Load an image and return the operation that displays it (or restores the stored pixels if `exif` is False)."""
    stored = orientation(image)
    _load(image, stored)
    remaining = orientation(image)  # Pillow transposes TIFFs when it loads them
    if exif:
        return _TRANSPOSITIONS.get(remaining)
    return _TRANSPOSITIONS.get({6: 8, 8: 6}.get(stored, stored)) if stored != remaining else None


def _load(image: Image.Image, stored: int) -> None:
    name = getattr(image, "filename", None)
    if name and image.format == "TIFF" and stored > 4:
        image.filename = ""  # type: ignore[attr-defined]  # prevents a memory map, for which Pillow swaps height and width
    image.load()
    if name:
        image.filename = name  # type: ignore[attr-defined]


def read_image(path: Path, page: int = 0, exif: bool = True) -> np.ndarray:
    """Image at `path` as a viewer shows it, (H, W, 3) uint8 sRGB; see `to_rgb`.

    `page`: index from 0 to `page_count(path)` - 1. `exif=False` ignores the EXIF orientation. Raises `InputError` if the file
    cannot be decoded or has no such page.
    """
    return read_turned(path, page, exif)[0]


def read_turned(path: Path, page: int = 0, exif: bool = True) -> tuple[np.ndarray, int]:
    """Image as `read_image` returns it, and the EXIF orientation stored in the file (1 to 8)."""
    try:
        with Image.open(path) as image:
            if page or image.format == "TIFF":  # its first frame may be a thumbnail
                _seek(image, page)
            stored_orientation = orientation(image)
            return np.array(to_rgb(image, exif)), stored_orientation
    except FileNotFoundError:
        raise InputError(f"no such image: {path}") from None
    except Exception as cause:  # decoders raise errors of many types
        raise InputError(f"cannot read the image {path}: {cause}") from cause


def page_count(path: Path) -> int:
    """Number of images in a file: pages of a TIFF, frames of an animated GIF, PNG, WebP or AVIF; 1 for anything else.

    Thumbnails and transparency masks in TIFFs, and previews and depth maps in other files are not counted. The count of a
    file that cannot be opened is 1; reading it raises the error.
    """
    if path.suffix.lower() not in PAGED_SUFFIXES:
        return 1
    try:
        with Image.open(path) as image:
            return len(_frames(image))
    except Exception:  # decoders raise errors of many types
        return 1


def _frames(image: Image.Image) -> list[int]:
    """Frame numbers of the pages in an open file."""
    if image.format not in ("TIFF", "GIF", "PNG", "WEBP", "AVIF"):
        return [image.tell()]
    frames = list(range(getattr(image, "n_frames", 1)))
    if image.format != "TIFF" or not frames[1:]:
        return frames
    return [frame for frame in frames if _is_page(image, frame)] or frames[:1]


def _is_page(image: Image.Image, frame: int) -> bool:
    image.seek(frame)
    return not image.tag_v2.get(254, 0) & 0b101  # type: ignore[attr-defined]  # NewSubfileType: thumbnail, transparency mask


def _seek(image: Image.Image, page: int) -> None:
    frames = _frames(image)
    if not 0 <= page < len(frames):
        raise InputError(f"there is no page {page}; pages are numbered 0 to {len(frames) - 1}")
    image.seek(frames[page])


def broken_images(paths: Sequence[Path]) -> dict[Path, str]:
    """The images that cannot be read, in order, each with its error. All images are decoded, by several threads."""

    def problem(path: Path) -> str | None:
        try:
            read_image(path)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        problems = tqdm(threads.map(problem, paths), total=len(paths), desc="reading all images", unit="image", disable=len(paths) < 200)
        return {path: why for path, why in zip(paths, problems, strict=True) if why is not None}


def read_mask(path: Path, exif: bool = True) -> np.ndarray:
    """Class indices (H, W) stored in the file at `path`, uint8 or wider as stored.

    Formats: PNG, TIFF, BMP, GIF and PGM, with one channel or a palette. `exif` applies the mask's own EXIF orientation. Raises
    `InputError` for a file without class indices, or of a type whose values change in decoding.
    """
    try:
        with Image.open(path) as image:
            if problem := _mask_problem(image):
                raise InputError(f"the mask {path} {problem}: save it as a palette or grey PNG of class indices (data.masks)")
            step = {"L;2": 85, "L;4": 17}.get(_raw_mode(image).removesuffix("R"), 1)  # Pillow scales 2 and 4 bits to 255
            signed = image.format == "TIFF" and image.tag_v2.get(339) == (2,) and image.mode == "L"
            transposition = _load_and_transposition(image, exif)
            labels = np.array(image if transposition is None else image.transpose(transposition))
    except FileNotFoundError:
        raise InputError(f"no such mask: {path}") from None
    except InputError:
        raise
    except Exception as cause:
        raise InputError(f"cannot read the mask {path}: {cause}") from cause
    if labels.dtype == bool or step > 1:
        return labels.astype(np.uint8) // np.uint8(step)
    return labels.view(np.int8) if signed else labels.astype(labels.dtype.newbyteorder("="), copy=False)


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name of the stored pixel format of an open file, such as "L;4"."""
    arguments = image.tile[0][3] if image.tile else ""  # type: ignore[attr-defined]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _mask_problem(image: Image.Image) -> str:
    """Why Pillow does not decode the stored values of an open mask; "" if it does.

    Seeks to the page of the file, which may have thumbnails and transparency masks too.
    """
    if (pages := len(_frames(image))) > 1:
        return f"has {pages} pages, but a mask has one"
    _seek(image, 0)
    if image.mode not in ("P", "L", "1", "I") and not image.mode.startswith("I;16"):
        return f"has mode {image.mode}, but an index mask has one channel of integers"
    if image.format not in ("PNG", "TIFF", "BMP", "GIF", "PPM"):
        return f"is a {image.format} file, whose compression changes values"
    codec, box = image.tile[0][:2]  # type: ignore[attr-defined]
    if image.format == "TIFF":
        if image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
            return "is a TIFF with inverted values (photometric interpretation WhiteIsZero)"
        if image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
            return "is a TIFF whose compression changes values"
    if image.format == "BMP" and (_bits_of_bmp(image) != 8 or image.mode == "1"):
        return "is a BMP of fewer than 256 grey levels or colours"  # some of which Pillow decodes wrongly
    if image.format == "PPM" and (codec != "raw" or image.mode == "1"):
        return "is a PBM, or a PGM whose maximum is not 255 or 65535"
    if image.format == "GIF" and tuple(box) != (0, 0, *image.size):
        return "is a GIF whose image covers a part of its canvas only"
    return ""


def _bits_of_bmp(image: Image.Image) -> int:
    image.fp.seek(28)  # type: ignore[attr-defined]
    return int.from_bytes(image.fp.read(2), "little")  # type: ignore[attr-defined]
