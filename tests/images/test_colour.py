"""ICC profiles and grey levels of more than 8 bits. The profiles are written value by value (ICC.1:2001-04)."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.image_files import tiff

from maskclip import notices
from maskclip.images.colour import grey_range
from maskclip.images.reading import read_image

SRGB = np.array([[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]])
P3 = np.array([[0.5151187, 0.2919778, 0.1571035], [0.2411892, 0.6922441, 0.0665668], [-0.0010505, 0.0418791, 0.7840713]])
PROPHOTO = np.array([[0.7976749, 0.1351917, 0.0313534], [0.2880402, 0.7118741, 0.0000857], [0.0, 0.0, 0.8252100]])
"""Linear RGB to XYZ under D50, columns are primaries (B. Lindbloom, RGB/XYZ matrices, Bradford-adapted)."""


@pytest.fixture(autouse=True)
def _fresh_warnings() -> Iterator[None]:
    notices.reset()
    yield
    notices.reset()


def icc(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2 with these `tags`."""
    white = struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": white, **tags}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = struct.pack(">I4xI4s4s4s6H4s", start + len(body), 0x02400000, kind, space, connection, 2020, 1, 1, 0, 0, 0, b"acsp")
    return header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + struct.pack(">I", len(tags)) + table + body


def curve(gamma: float) -> bytes:
    return struct.pack(">4s4xIH", b"curv", 1, round(gamma * 256))


def matrix_profile(primaries: np.ndarray, gamma: float) -> bytes:
    columns = [struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in column)) for column in primaries.T]
    return icc(
        b"RGB ", dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)) | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma))
    )


def linear(srgb: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    values = srgb / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def scene() -> np.ndarray:
    """Colours within sRGB, smooth enough for a JPEG."""
    y, x = np.mgrid[:64, :64] / 63
    return np.stack([40 + 180 * x, 200 - 150 * y, 60 + 150 * (1 - x) * y], axis=-1).round()


def rendered(srgb: np.ndarray, primaries: np.ndarray, gamma: float) -> np.ndarray:
    """The same colours as bytes for a profile."""
    device = linear(srgb) @ SRGB.T @ np.linalg.inv(primaries).T
    return (np.clip(device, 0, 1) ** (1 / gamma) * 255).round().astype(np.uint8)


PROFILES = {"p3": (P3, 2.2), "prophoto": (PROPHOTO, 1.8), "exchanged": (SRGB[:, [2, 0, 1]], 2.2)}


def difference(image: np.ndarray, expected: np.ndarray) -> int:
    return int(np.abs(image.astype(int) - expected).max())


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_converted_to_srgb(tmp_path: Path, name: str, suffix: str) -> None:
    profile, pixels = matrix_profile(*PROFILES[name]), rendered(scene(), *PROFILES[name])
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(pixels).save(tmp_path / f"image{suffix}", icc_profile=profile, **options)
    assert difference(pixels, scene()) > 15  # without colour management
    image = read_image(tmp_path / f"image{suffix}")
    assert np.abs(image - scene()).mean() < 2
    if suffix != ".jpg":
        assert difference(image, scene()) <= 5  # ProPhoto has few levels for dark colours


def test_profiles_of_transparent_and_palette_images(tmp_path: Path) -> None:
    profile, pixels = matrix_profile(*PROFILES["exchanged"]), rendered(scene(), *PROFILES["exchanged"])
    alpha = np.full((64, 64, 1), 102, np.uint8)
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "alpha.png", icc_profile=profile)
    assert difference(read_image(tmp_path / "alpha.png"), scene() * 0.4 + 255 * 0.6) <= 3
    flat = Image.new("P", (4, 4), 1)
    flat.putpalette([0, 0, 0, *pixels[10, 20]])
    flat.save(tmp_path / "palette.png", icc_profile=profile)
    assert difference(read_image(tmp_path / "palette.png"), scene()[10, 20]) <= 3
    flat.putpixel((0, 0), 0)
    flat.save(tmp_path / "palette.png", icc_profile=profile, transparency=0)
    assert read_image(tmp_path / "palette.png")[0, 0].tolist() == [255, 255, 255]


def test_grey_profiles_of_8_and_16_bits(tmp_path: Path) -> None:
    profile = icc(b"GRAY", {b"kTRC": curve(1.0)})
    levels = np.arange(256, dtype=np.uint8)[None].repeat(2, 0)
    expected = np.where(levels <= 0.0031308 * 255, 12.92 * levels, 255 * (1.055 * (levels / 255) ** (1 / 2.4) - 0.055))[..., None]
    Image.fromarray(levels).save(tmp_path / "grey.png", icc_profile=profile)
    assert difference(read_image(tmp_path / "grey.png"), expected) <= 2
    Image.fromarray(levels * np.uint16(257)).save(tmp_path / "deep.png", icc_profile=profile)
    assert difference(read_image(tmp_path / "deep.png"), expected) <= 2
    Image.fromarray(np.dstack([levels, np.full_like(levels, 255)])).save(tmp_path / "alpha.png", icc_profile=profile)
    assert difference(read_image(tmp_path / "alpha.png"), expected) <= 2
    Image.fromarray(levels).save(tmp_path / "grey.png", icc_profile=matrix_profile(P3, 1.0))  # grey as an RGB image
    assert difference(read_image(tmp_path / "grey.png"), expected) <= 2


def test_cmyk_profile(tmp_path: Path) -> None:
    """A press whose first ink is red, the last black, and the others invisible, so that ink values alone do not tell the colour."""
    ramp = bytes(range(256))
    paper, red = (255, 128, 128), (round(53.2 * 2.55), 128 + 80, 128 + 67)  # Lab of sRGB red: 53.2, 80.1, 67.2
    grid = b"".join(bytes((0, 128, 128) if node % 2 else red if node >= 8 else paper) for node in range(16))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + 4 * ramp + grid + 3 * ramp
    profile = icc(b"CMYK", {b"A2B0": table}, b"prtr", b"Lab ")
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "press.tif", icc_profile=profile)
    assert difference(read_image(tmp_path / "press.tif"), np.array([255, 0, 0])) <= 16
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "plain.tif")
    assert read_image(tmp_path / "plain.tif")[0, 0].tolist() == [0, 255, 255]


def test_srgb_profiles_change_no_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (profile, profile + bytes(7)):
        Image.fromarray(pixels).save(tmp_path / "image.png", icc_profile=data)
        assert np.array_equal(read_image(tmp_path / "image.png"), pixels)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"no profile"),
        ("RGB", matrix_profile(P3, 2.2)[:300]),
        ("RGB", icc(b"GRAY", {b"kTRC": curve(1.0)})),
        ("CMYK", matrix_profile(P3, 2.2)),
    ],
)
def test_a_bad_profile_is_ignored_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str, profile: bytes) -> None:
    Image.new(mode, (8, 8), 77).save(tmp_path / "plain.tif")
    Image.new(mode, (8, 8), 77).save(tmp_path / "image.tif", icc_profile=profile)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert np.array_equal(read_image(tmp_path / "image.tif"), read_image(tmp_path / "plain.tif"))
    assert len(caplog.messages) == 1 and "image.tif has" in caplog.messages[0] and "ICC profile" in caplog.messages[0]


def test_profiles_in_threads(tmp_path: Path) -> None:
    for name, (primaries, gamma) in PROFILES.items():
        pixels = np.tile(rendered(scene(), primaries, gamma), (6, 6, 1))
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", icc_profile=matrix_profile(primaries, gamma))
    paths = 20 * [tmp_path / f"{name}.png" for name in PROFILES]
    alone = {path: read_image(path) for path in set(paths)}
    with ThreadPoolExecutor(8) as threads:
        assert all(np.array_equal(image, alone[path]) for path, image in zip(paths, threads.map(read_image, paths), strict=True))


def ramp_up_to(top: float, dtype: type[np.generic], low: float = 0) -> np.ndarray:
    return np.linspace(low, top, 64 * 64).reshape(64, 64).astype(dtype)


RANGES = {
    "bytes in 32 bits": (ramp_up_to(255, np.int32), (0, 255)),
    "a hot pixel": (np.where(np.arange(4096).reshape(64, 64) == 99, 10**6, ramp_up_to(255, np.int32)), (0, 255)),
    "a cold pixel": (np.where(np.arange(4096).reshape(64, 64) == 99, -(10**6), ramp_up_to(255, np.int32)), (0, 255)),
    "somewhat more than bytes": (ramp_up_to(300.99, np.int32), (0, 300)),
    "a million": (ramp_up_to(10**6, np.int32), (0, 10**6)),
    "16 bits in 32": (ramp_up_to(65535, np.int32), (0, 65535)),
    "few levels": (ramp_up_to(3.99, np.int32), (0, 3)),
    "negative": (ramp_up_to(3000, np.int32, -1000), (-1000, 3000)),
    "floats to 1": (ramp_up_to(1, np.float32), (0, 1)),
    "overshoot": (ramp_up_to(1.0001, np.float32, -0.0001), (0, 1)),
    "a dark photo": (ramp_up_to(0.2, np.float32), (0, 1)),
    "floats to 255": (ramp_up_to(255, np.float32), (0, 255)),
    "floats to 3": (ramp_up_to(3, np.float32), (0, 3)),
    "normalised": (ramp_up_to(1, np.float32, -1), (-1, 1)),
    "temperature": (ramp_up_to(310, np.float32, 290), (290, 310)),
}


@pytest.mark.parametrize("name", RANGES)
def test_range_of_grey_levels(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    levels, (low, high) = RANGES[name]
    levels = levels.astype(np.int32 if levels.dtype.kind == "i" else np.float32)
    assert np.allclose(grey_range(levels), (low, high), atol=0.0021 * (high - low))
    Image.fromarray(levels).save(tmp_path / "image.tif")
    with caplog.at_level(logging.WARNING):
        image = read_image(tmp_path / "image.tif")[..., 0]
        read_image(tmp_path / "image.tif")
    assert difference(image, np.clip((levels.astype(float) - low) / (high - low), 0, 1) * 255) <= 2
    assert len(caplog.messages) == 1 and "image.tif has" in caplog.messages[0] and "becomes black" in caplog.messages[0]


def test_nan_infinity_and_constant_images(tmp_path: Path) -> None:
    levels = ramp_up_to(1, np.float32)
    levels[0, :4], levels[0, 4:8] = np.nan, np.inf
    Image.fromarray(levels).save(tmp_path / "image.tif")
    image = read_image(tmp_path / "image.tif")[..., 0]
    assert (image[0, :4] == 0).all() and (image[0, 4:8] == 255).all() and image[-1, -1] == 255
    for value in (0, 7, 1e9, -5, np.nan):
        Image.fromarray(np.full((3, 3), value, np.float32)).save(tmp_path / "image.tif")
        assert len(np.unique(read_image(tmp_path / "image.tif"))) == 1


def test_unsigned_32_bits_and_inverted_16_bits(tmp_path: Path) -> None:
    levels = ramp_up_to(4e9, np.uint32)
    (tmp_path / "wide.tif").write_bytes(tiff(levels))
    assert difference(read_image(tmp_path / "wide.tif")[..., 0], levels / 4e9 * 255) <= 2
    (tmp_path / "inverted.tif").write_bytes(tiff(ramp_up_to(65535, np.uint16), photometric=0))
    assert difference(read_image(tmp_path / "inverted.tif")[..., 0], 255 - ramp_up_to(255, np.float32)) <= 1
    (tmp_path / "twelve.tif").write_bytes(tiff(ramp_up_to(4095, np.uint16), bits=12))
    assert difference(read_image(tmp_path / "twelve.tif")[..., 0], ramp_up_to(255, np.float32)) <= 1


def test_16_bit_images_with_fewer_bits_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    levels = ramp_up_to(4000, np.uint16)
    levels[5, 5] = 65535  # one odd pixel
    Image.fromarray(levels).save(tmp_path / "dark.png")
    with caplog.at_level(logging.WARNING):
        assert read_image(tmp_path / "dark.png")[-1, -1, 0] == 16
        read_image(tmp_path / "dark.png")
    assert len(caplog.messages) == 1 and "dark.png is nearly black" in caplog.messages[0]
