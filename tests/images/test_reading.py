"""Images as a viewer shows them, and masks as they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from maskclip import InputError
from maskclip.images.reading import IMAGE_SUFFIXES, KNOWN_UNREADABLE, page_count, read_image, read_mask
from maskclip.images.writing import write_mask

RED = (200, 30, 40)


def stored(tmp_path: Path, image: Image.Image, suffix: str, **options: object) -> np.ndarray:
    path = tmp_path / f"image{suffix}"
    image.save(path, **options)
    return read_image(path)


def test_rgb_and_grey(tmp_path: Path) -> None:
    assert stored(tmp_path, Image.new("RGB", (3, 2), RED), ".png").tolist() == [[list(RED)] * 3] * 2
    assert (stored(tmp_path, Image.new("L", (3, 2), 77), ".png") == 77).all()
    assert (stored(tmp_path, Image.new("1", (3, 2), 1), ".png") == 255).all()


def test_transparent_images_are_composited_over_white(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (2, 1), (*RED, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    assert stored(tmp_path, rgba, ".png").tolist() == [[list(RED), [255, 255, 255]]]
    assert stored(tmp_path, Image.new("LA", (1, 1), (0, 51)), ".png").tolist() == [[[204, 204, 204]]]


def test_palette_and_transparent_palette(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, *RED])
    assert stored(tmp_path, image, ".png").tolist() == [[list(RED)] * 2]
    image.putpixel((0, 0), 0)
    assert stored(tmp_path, image, ".png", transparency=0).tolist() == [[[255, 255, 255], list(RED)]]


def test_cmyk(tmp_path: Path) -> None:
    result = stored(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), ".jpg", quality=95)
    assert np.abs(result.astype(int) - [255, 0, 0]).max() <= 6


@pytest.mark.parametrize(("suffix", "value", "expected"), [(".png", 32896, 128), (".png", 65535, 255), (".tif", 257, 1), (".png", 200, 1)])
def test_16_bits_are_scaled_not_truncated(tmp_path: Path, suffix: str, value: int, expected: int) -> None:
    assert (stored(tmp_path, Image.fromarray(np.full((2, 3), value, dtype=np.uint16)), suffix) == expected).all()


def test_exif_rotation(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), (0, 0, 0))
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    result = stored(tmp_path, image, ".png", exif=exif)
    assert result.shape == (4, 2, 3)
    assert result[0, 1].tolist() == list(RED)


def test_errors_name_the_image(tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    with pytest.raises(InputError, match=r"cannot read the image .*text\.jpg"):
        read_image(text)
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(InputError, match=r"cannot read the image .*cut\.jpg"):
        read_image(cut)
    with pytest.raises(InputError, match=r"no such image: .*nowhere\.jpg"):
        read_image(tmp_path / "nowhere.jpg")


def test_masks_are_read_as_written(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [254, 255]], dtype=np.uint8)
    write_mask(tmp_path / "deep" / "mask.png", labels, [(1, 2, 3), (4, 5, 6)])
    assert np.array_equal(read_mask(tmp_path / "deep" / "mask.png"), labels)
    with Image.open(tmp_path / "deep" / "mask.png") as image:
        assert image.mode == "P"
        assert np.asarray(image.convert("RGB"))[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["mask.png"]


def test_masks_of_more_than_255_classes(tmp_path: Path) -> None:
    labels = np.array([[0, 459]], dtype=np.uint16)
    Image.fromarray(labels).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 459]]


def test_a_colour_image_is_not_a_mask(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png has mode RGB"):
        read_mask(tmp_path / "mask.png")


def test_every_image_suffix_is_readable_or_has_a_remedy(tmp_path: Path) -> None:
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".jp2"} <= IMAGE_SUFFIXES
    assert not {".pdf", ".psd", ".ico", ".vst", ".h5", ".mpg"} & IMAGE_SUFFIXES
    assert not IMAGE_SUFFIXES & set(KNOWN_UNREADABLE)
    assert {".heic", ".heif", ".avif", ".cr2", ".dng", ".svg", ".jxl"} <= IMAGE_SUFFIXES | set(KNOWN_UNREADABLE)
    formats = Image.registered_extensions()
    written = [suffix for suffix in sorted(IMAGE_SUFFIXES) if formats[suffix] in Image.SAVE]
    assert len(written) > 20
    for suffix in written:
        image = Image.new(
            "L" if suffix in (".pgm", ".pbm", ".pfm") else "RGB", (16, 16), 200 if suffix in (".pgm", ".pbm", ".pfm") else RED
        )
        path = tmp_path / f"image{suffix}"
        image.convert("F" if suffix == ".pfm" else image.mode).save(path, format=formats[suffix])
        assert read_image(path).shape == (16, 16, 3), suffix


PAGES = [Image.new("RGB", (12, 8), (shade, 0, 0)) for shade in (50, 120, 250)]


@pytest.mark.parametrize(("suffix", "options"), [(".tif", {}), (".gif", {}), (".png", {}), (".webp", {"lossless": True})])
def test_pages_are_counted_and_read(tmp_path: Path, suffix: str, options: dict[str, object]) -> None:
    path = tmp_path / f"pages{suffix}"
    PAGES[0].save(path, save_all=True, append_images=PAGES[1:], **options)
    assert page_count(path) == 3
    assert [int(read_image(path, page)[0, 0, 0]) for page in range(3)] == [50, 120, 250]
    assert np.array_equal(read_image(path), read_image(path, 0))
    for page in (3, -1):
        with pytest.raises(InputError, match=rf"pages{suffix}: there is no page {page}; pages are numbered 0 to 2"):
            read_image(path, page)
    PAGES[0].save(path, **options)
    assert page_count(path) == 1


def test_previews_are_not_pages(tmp_path: Path) -> None:
    photo = tmp_path / "stereo.mpo"
    PAGES[0].save(photo, format="MPO", save_all=True, append_images=PAGES[1:])
    assert page_count(photo) == 1
    pyramid = tmp_path / "pyramid.tif"
    levels = [image.resize((12 // side, 8 // side)) for image, side in zip(PAGES, (1, 2, 1), strict=True)]
    with TiffImagePlugin.AppendingTiffWriter(str(pyramid), True) as file:
        for image, kind in zip(levels, (0, 1, 0), strict=True):
            image.save(file, format="TIFF", tiffinfo={254: kind})  # NewSubfileType: 1 is a thumbnail
            file.newFrame()
    assert page_count(pyramid) == 2
    assert read_image(pyramid, 1).shape == (8, 12, 3)
    (tmp_path / "broken.tif").write_text("no TIFF")
    assert page_count(tmp_path / "broken.tif") == 1
    assert page_count(tmp_path / "nowhere.tif") == 1


def test_heic_with_the_optional_package(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    assert ".heic" in IMAGE_SUFFIXES and ".heic" not in KNOWN_UNREADABLE
    heif.from_pillow(Image.new("RGB", (64, 32), RED)).save(tmp_path / "photo.heic")
    image = read_image(tmp_path / "photo.heic")
    assert image.shape == (32, 64, 3) and np.abs(image.astype(int) - RED).max() <= 3 and page_count(tmp_path / "photo.heic") == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_is_ignored(tmp_path: Path) -> None:
    for number, block in enumerate((b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12")):
        Image.new("RGB", (8, 8), RED).save(tmp_path / f"{number}.jpg", exif=block)
        assert read_image(tmp_path / f"{number}.jpg").shape == (8, 8, 3)
