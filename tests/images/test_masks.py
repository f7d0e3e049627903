"""Masks keep the numbers that are stored in the file, or are refused; the files are written byte by byte, without Pillow."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter
from support.image_files import bmp, packed, png, tiff

from maskclip import InputError
from maskclip.images.reading import read_image, read_mask


def numbers(below: int, dtype: type[np.generic] = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, below, (11, 13)).astype(dtype)


GREYS = [(i, i, i) for i in range(256)]
STORED = {
    **{f"grey{bits}.png": (png(numbers(2**bits), bits, 0), numbers(2**bits)) for bits in (1, 2, 4, 8)},
    **{f"palette{bits}.png": (png(numbers(2**bits), bits, 3), numbers(2**bits)) for bits in (1, 2, 4, 8)},
    **{f"interlaced{bits}.png": (png(numbers(2**bits), bits, 0, interlaced=True), numbers(2**bits)) for bits in (1, 2, 4, 8)},
    "grey16.png": (png(numbers(60000, np.uint16), 16, 0), numbers(60000, np.int64)),
    "transparent4.png": (png(numbers(16), 4, 0, struct.pack(">I4sHI", 2, b"tRNS", 1, zlib.crc32(b"tRNS\0\1"))), numbers(16)),
    "gamma4.png": (png(numbers(16), 4, 0, struct.pack(">I4sII", 4, b"gAMA", 100000, zlib.crc32(b"gAMA\0\1\x86\xa0"))), numbers(16)),
    **{f"grey{bits}.tif": (tiff(numbers(2**bits), bits=bits), numbers(2**bits)) for bits in (1, 2, 4)},
    "grey8.tif": (tiff(numbers(256)), numbers(256)),
    "grey16.tif": (tiff(numbers(60000, np.uint16)), numbers(60000, np.int64)),
    "big16.tif": (tiff(numbers(60000, np.uint16), order=">"), numbers(60000, np.int64)),
    "signed8.tif": (tiff(numbers(9, np.int8) - np.int8(1), sample=2), numbers(9, np.int64) - 1),
    "signed16.tif": (tiff(numbers(999, np.int16) - np.int16(1), sample=2), numbers(999, np.int64) - 1),
    "signed32.tif": (tiff(numbers(999, np.int32) - np.int32(1), sample=2), numbers(999, np.int64) - 1),
    **{f"turned{bits}.tif": (tiff(numbers(2**bits), bits=bits, turn=6), np.rot90(numbers(2**bits), -1)) for bits in (1, 4, 8)},
    "turned16.tif": (tiff(numbers(60000, np.uint16), turn=8), np.rot90(numbers(60000, np.int64))),
    "grey8.bmp": (bmp(numbers(256), 8, GREYS), numbers(256)),
    "few8.bmp": (bmp(numbers(5), 8, [(9, 8, 7), (200, 0, 0), (0, 200, 0), (1, 2, 3), (9, 8, 7)]), numbers(5)),
    "grey8.pgm": (b"P5 13 11 255\n" + numbers(256).tobytes(), numbers(256)),
    "grey16.pgm": (b"P5 13 11 65535\n" + numbers(60000, np.int64).astype(">u2").tobytes(), numbers(60000, np.int64)),
}


@pytest.mark.parametrize("name", STORED)
def test_stored_numbers_are_read(tmp_path: Path, name: str) -> None:
    content, stored = STORED[name]
    (tmp_path / name).write_bytes(content)
    labels = read_mask(tmp_path / name)
    assert labels.tolist() == stored.tolist()
    assert labels.dtype.isnative


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_files_of_this_test_are_good(tmp_path: Path, bits: int) -> None:
    """OpenCV, another decoder, scales grey of few bits to 255 as Pillow does."""
    labels = numbers(2**bits, np.uint16)
    for interlaced in (False, True):
        (tmp_path / "mask.png").write_bytes(png(labels, bits, 0, interlaced=interlaced))
        decoded = cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(decoded, labels.astype(int) * (255 // (2**bits - 1) if bits < 8 else 1))


def encoded(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


REFUSED = {
    "photo.jpg": (encoded(".jpg", numbers(9)), "is a JPEG file, whose compression changes numbers"),
    "disguised.png": (encoded(".jpg", numbers(9)), "is a JPEG file"),
    "colours.png": (encoded(".png", np.dstack(3 * [numbers(9)])), "has mode RGB, but an index mask has one channel"),
    "alpha.png": (encoded(".png", np.dstack(4 * [numbers(9)])), "has mode RGBA"),
    "lossless.webp": (encoded(".webp", np.dstack(3 * [numbers(9)])), "has mode RGB"),
    "photo.jp2": (encoded(".jp2", np.tile(numbers(9), (6, 6))), "is a JPEG2000 file, whose compression changes numbers"),
    "white0.tif": (tiff(numbers(9), photometric=0), "inverted numbers"),
    "white0_4.tif": (tiff(numbers(9), photometric=0, bits=4), "inverted numbers"),
    "white0_16.tif": (tiff(numbers(9, np.uint16), photometric=0), "inverted numbers"),
    "float.tif": (tiff(numbers(9, np.float32), sample=3), "has mode F, but an index mask has one channel of integers"),
    "two8.bmp": (bmp(numbers(2), 8, [(0, 0, 0), (255, 255, 255)]), "is a BMP of fewer than 256"),
    "grey4.bmp": (bmp(numbers(16), 4, GREYS[:16]), "is a BMP of fewer than 256"),
    "grey20.pgm": (b"P5 13 11 20\n" + numbers(20).tobytes(), "grey levels do not end at 255 or 65535"),
    "text20.pgm": (b"P2 13 11 20\n" + " ".join(map(str, numbers(20).ravel())).encode(), "grey levels do not end at"),
    "bits.pbm": (b"P4 13 11\n" + b"".join(packed(numbers(2), 1)), "is a PBM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_changes_numbers_is_refused(tmp_path: Path, name: str) -> None:
    content, reason = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"the mask .*{name} .*{reason}.*: save it as a palette or grey PNG of class indices"):
        read_mask(tmp_path / name)


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".png"])
def test_masks_of_several_pages_are_refused(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(np.full((4, 5), value, np.uint8)) for value in (1, 2)]
    pages[0].save(tmp_path / f"mask{suffix}", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="has 2 pages, but a mask has one"):
        read_mask(tmp_path / f"mask{suffix}")


@pytest.mark.parametrize("kind", [1, 4])  # NewSubfileType: reduced copy, transparency mask
@pytest.mark.parametrize("size", [(2, 3), (4, 5)])
@pytest.mark.parametrize("mask_first", [True, False])
def test_the_other_frames_of_a_tiff_are_not_read(tmp_path: Path, kind: int, size: tuple[int, int], mask_first: bool) -> None:
    frames = [(np.full((4, 5), 3, np.uint8), 0), (np.full(size, 7, np.uint8), kind)]
    with AppendingTiffWriter(str(tmp_path / "mask.tif")) as writer:
        for pixels, subfile in frames if mask_first else frames[::-1]:
            Image.fromarray(pixels).save(writer, "TIFF", tiffinfo={254: subfile})
            writer.newFrame()
    assert read_mask(tmp_path / "mask.tif").tolist() == [[3] * 5] * 4
    assert (read_image(tmp_path / "mask.tif") == 3).all()


def test_a_gif_or_a_tiff_that_keeps_its_numbers_is_read(tmp_path: Path) -> None:
    image = Image.fromarray(numbers(9))
    image.putpalette([9, 8, 7] * 9)
    image.save(tmp_path / "mask.gif", optimize=False)
    assert np.array_equal(read_mask(tmp_path / "mask.gif"), numbers(9))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        image.save(tmp_path / "mask.tif", compression=compression)
        assert np.array_equal(read_mask(tmp_path / "mask.tif"), numbers(9))
    Image.fromarray(numbers(9)).save(tmp_path / "mask.tif", compression="jpeg")
    with pytest.raises(InputError, match="whose compression changes numbers"):
        read_mask(tmp_path / "mask.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_mask_is_turned_by_its_own_tag_like_an_image(tmp_path: Path, suffix: str, turn: int) -> None:
    stored, exif = numbers(256), Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(stored).save(tmp_path / f"mask{suffix}", exif=exif)
    path = tmp_path / f"mask{suffix}"
    assert np.array_equal(read_mask(path, exif=False), stored)
    assert np.array_equal(read_image(path, exif=False)[..., 0], stored)
    displayed = {2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.T, 6: np.rot90(stored, -1)}
    displayed |= {7: stored[::-1, ::-1].T, 8: np.rot90(stored), 1: stored}
    assert np.array_equal(read_mask(path), displayed[turn])
    assert np.array_equal(read_image(path)[..., 0], displayed[turn])
