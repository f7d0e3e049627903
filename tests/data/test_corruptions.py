"""The corruptions against distributions, convolutions and files that are written out here."""

from __future__ import annotations

import math
import random
import warnings
from itertools import pairwise, product
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from maskclip import InputError
from maskclip.data.corruptions import CORRUPTIONS, corrupt, disc, gaussian, water
from maskclip.data.seeds import corruption_generator

KINDS = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur", "defocus_blur", "spatter", "jpeg_compression"]
RANDOM = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "spatter"]


def grey(level: int, size: tuple[int, int] = (200, 300)) -> np.ndarray:
    return np.full((*size, 3), level, dtype=np.uint8)


def scene(size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Soft random blotches of all levels, with some black and some white."""
    grid = np.random.default_rng(1).integers(-60, 316, (9, 12, 3)).astype(np.float32)
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC).reshape(*size, 3).clip(0, 255).astype(np.uint8)


def is_floor_of(result: np.ndarray, expected: np.ndarray) -> bool:
    """Whether every level is the exact value truncated, up to rounding errors of a hundredth of a level."""
    return bool(((result <= expected + 0.01) & (result > expected - 1.01)).all())


def worst_gap(values: np.ndarray, mean: float, deviation: float) -> float:
    """Largest distance between the share of levels below 1..255 and a normal distribution's; clipping leaves both alone."""
    below = [float((values < level).mean()) for level in range(1, 256)]
    normal = [0.5 + 0.5 * math.erf((level - mean) / deviation / math.sqrt(2)) for level in range(1, 256)]
    return max(abs(a - b) for a, b in zip(below, normal, strict=True))


def test_the_names() -> None:
    assert list(CORRUPTIONS) == KINDS


# noises


@pytest.mark.parametrize(("severity", "sigma"), list(enumerate((0.08, 0.12, 0.18, 0.26, 0.38), 1)))
@pytest.mark.parametrize("level", [0, 60, 128, 250])
def test_gaussian_noise_is_normal_at_every_level(level: int, severity: int, sigma: float) -> None:
    assert worst_gap(corrupt(grey(level), "gaussian_noise", severity, "a"), level, 255 * sigma) < 0.006  # 180,000 values


@pytest.mark.parametrize(("severity", "sigma"), list(enumerate((0.15, 0.2, 0.35, 0.45, 0.6), 1)))
@pytest.mark.parametrize("level", [30, 128, 255])
def test_speckle_noise_is_normal_and_grows_with_the_level(level: int, severity: int, sigma: float) -> None:
    assert worst_gap(corrupt(grey(level), "speckle_noise", severity, "a"), level, level * sigma) < 0.006


def test_mean_and_variance_of_what_clipping_leaves_alone() -> None:
    noisy = corrupt(grey(128), "gaussian_noise", 1, "a").astype(float)
    assert abs(noisy.mean() - 127.5) < 0.25  # truncation takes half a level
    assert abs(noisy.var() / (0.08 * 255) ** 2 - 1) < 0.02
    dark, light = (corrupt(grey(level), "speckle_noise", 1, "a").astype(float) for level in (50, 100))
    assert abs(dark.var() / (0.15 * 50) ** 2 - 1) < 0.02 and abs(light.var() / dark.var() - 4) < 0.1


@pytest.mark.parametrize(("severity", "photons"), list(enumerate((60, 25, 12, 5, 3), 1)))
def test_shot_noise_counts_photons(severity: int, photons: int) -> None:
    noisy = corrupt(grey(64), "shot_noise", severity, "a")
    counts = np.ceil(noisy * (photons / 255) - 1e-6).astype(int)
    assert is_floor_of(noisy, counts * 255 / photons)
    mean = 64 / 255 * photons
    for number in range(photons):  # white stands for all larger numbers
        share = math.exp(-mean + number * math.log(mean) - math.lgamma(number + 1))
        assert abs((counts == number).mean() - share) < 0.006


def test_shot_noise_has_the_variance_of_its_mean() -> None:
    for level in (40, 80, 120):
        photons = corrupt(grey(level), "shot_noise", 1, "a").astype(float) * 60 / 255
        assert abs(photons.var() / (level * 60 / 255) - 1) < 0.02
    assert not corrupt(grey(0), "shot_noise", 5, "a").any() and not corrupt(grey(0), "speckle_noise", 5, "a").any()


@pytest.mark.parametrize(("severity", "share"), list(enumerate((0.03, 0.06, 0.09, 0.17, 0.27), 1)))
def test_impulse_noise_is_half_salt_and_half_pepper(severity: int, share: float) -> None:
    noisy = corrupt(grey(100), "impulse_noise", severity, "a")
    assert abs((noisy == 255).mean() - share / 2) < 0.003
    assert abs((noisy == 0).mean() - share / 2) < 0.003
    assert set(np.unique(noisy)) == {0, 100, 255}


@pytest.mark.parametrize("kind", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"])
def test_pixels_and_channels_are_noisy_on_their_own(kind: str) -> None:
    noise = corrupt(grey(100), kind, 2, "a").astype(float) - 100
    noise = (noise - noise.mean()) / noise.std()
    right, below, channel = noise[:, 1:] * noise[:, :-1], noise[1:] * noise[:-1], noise[..., 1:] * noise[..., :-1]
    assert max(abs(product.mean()) for product in (right, below, channel)) < 0.015


# blurs


def direct_convolution(image: np.ndarray, kernel: np.ndarray, border: str) -> np.ndarray:
    """The sum over the kernel's positions, float64 (H, W, 3); `border` in numpy's words."""
    reach = len(kernel) // 2
    wide = np.pad(image.astype(float), ((reach, reach), (reach, reach), (0, 0)), mode=border)  # type: ignore[call-overload]
    rows, columns = image.shape[:2]
    places = product(range(len(kernel)), repeat=2)
    return sum(kernel[y, x] * wide[y : y + rows, x : x + columns] for y, x in places)


def bell(sigma: float, reach: int) -> np.ndarray:
    """A Gaussian on a square of 2 * reach + 1 pixels, summing to one."""
    line = np.array([math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)])
    return np.outer(line, line) / line.sum() ** 2


@pytest.mark.parametrize(("severity", "sigma"), list(enumerate((1, 2, 3, 4, 6), 1)))
def test_gaussian_blur_is_a_convolution_with_repeated_edges(severity: int, sigma: int) -> None:
    image = scene((14, 19))
    expected = direct_convolution(image, bell(sigma, 4 * sigma), "edge")
    assert is_floor_of(corrupt(image, "gaussian_blur", severity, "a"), expected)


@pytest.mark.parametrize("sigma", [1, 2, 3, 4, 6, 1.5])
def test_the_response_of_the_gaussian_blur_to_a_point(sigma: float) -> None:
    point = np.zeros((61, 61), dtype=np.float32)
    point[30, 30] = 1
    response = gaussian(point, sigma)
    reach = int(4 * sigma + 0.5)
    np.testing.assert_allclose(response[30 - reach : 31 + reach, 30 - reach : 31 + reach], bell(sigma, reach), atol=1e-7)
    assert abs(response.sum(dtype=float) - 1) < 1e-5
    assert np.count_nonzero(response) <= (2 * reach + 1) ** 2
    np.testing.assert_allclose(response, response.T, atol=1e-7)  # the same in all directions
    for cut in (response[:, ::-1], response[::-1]):
        np.testing.assert_allclose(response, cut, atol=1e-7)


def lens(radius: int, softness: float) -> np.ndarray:
    """The disc of the original in loops: on at least 17 x 17 pixels, smoothed by a small bell, mirrored at the edge."""
    reach = max(radius, 8)
    flat = np.array([[float(math.hypot(x, y) <= radius) for x in range(-reach, reach + 1)] for y in range(-reach, reach + 1)])
    small = bell(softness, 1 if radius <= 8 else 2)
    return direct_convolution((flat / flat.sum())[..., None], small, "reflect")[..., 0]


DISCS = [(1, 3, 0.1), (2, 4, 0.5), (3, 6, 0.5), (4, 8, 0.5), (5, 10, 0.5)]


@pytest.mark.parametrize(("severity", "radius", "softness"), DISCS)
def test_defocus_blur_is_a_convolution_with_mirrored_edges(severity: int, radius: int, softness: float) -> None:
    image = scene((24, 29))
    expected = direct_convolution(image, lens(radius, softness), "reflect").clip(0, 255)
    assert is_floor_of(corrupt(image, "defocus_blur", severity, "a"), expected)


@pytest.mark.parametrize(("severity", "radius", "softness"), DISCS)
def test_the_disc_of_the_defocus_blur(severity: int, radius: int, softness: float) -> None:
    kernel = disc(radius, softness)
    np.testing.assert_allclose(kernel, lens(radius, softness), atol=1e-7)
    total = {8: 1.01298, 10: 1.01079}.get(radius, 1.0)  # the original's: the two largest touch the edge of their square
    assert abs(kernel.sum(dtype=float) - total) < 1e-4
    for turned in (kernel.T, kernel[::-1], kernel[:, ::-1]):
        np.testing.assert_allclose(kernel, turned, atol=1e-8)
    reach = len(kernel) // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(y, x)
    area = (distance <= radius).sum()
    assert abs(area / (math.pi * radius**2) - 1) < 0.04
    np.testing.assert_allclose(kernel[distance < radius - 3], 1 / area, rtol=1e-5)
    assert (kernel[distance > radius + 3] < 1e-6).all()


def test_a_white_pixel_becomes_a_disc() -> None:
    image = grey(0, (31, 31))
    image[15, 15] = 255
    y, x = np.mgrid[-15:16, -15:16]
    blurred = corrupt(image, "defocus_blur", 1, "a")
    assert np.array_equal(blurred[..., 0], np.where(np.hypot(y, x) <= 3, 255 // 29, 0))  # 29 pixels lie within 3


@pytest.mark.parametrize(("kind", "severities"), [("gaussian_blur", (1, 2, 3, 4, 5)), ("defocus_blur", (1, 2, 3))])
def test_blurs_leave_areas_of_one_colour_alone(kind: str, severities: tuple[int, ...]) -> None:
    image = np.tile(np.array([[[7, 200, 255]]], dtype=np.uint8), (40, 50, 1))
    assert all(np.array_equal(corrupt(image, kind, severity, "a"), image) for severity in severities)


# spatter and JPEG


@pytest.mark.parametrize(("severity", "strength"), [(1, 0.6), (2, 0.6), (3, 0.5)])
def test_water_is_pale_turquoise_light(severity: int, strength: float) -> None:
    light = corrupt(grey(0), "spatter", severity, "a").astype(float)
    red, green, blue = light[..., 0], light[..., 1], light[..., 2]
    assert np.array_equal(green, blue) and (abs(red - green * 175 / 238) <= 1).all()
    assert light.max() == int(strength * 238)
    over_grey = corrupt(grey(50), "spatter", severity, "a")
    assert (abs(over_grey - 50 - light) <= 1).all()  # added, the same drops
    assert (corrupt(grey(255), "spatter", severity, "a") == 255).all()


@pytest.mark.parametrize(("severity", "share"), [(1, 0.03), (2, 0.14), (3, 0.24)])
def test_water_lies_where_the_liquid_is_thick(severity: int, share: float) -> None:
    """Blurred by sigma, normal noise of deviation 0.3 keeps 0.3 / (2 sqrt(pi) sigma); `share` of that is above the threshold."""
    sigma, threshold = {1: (4, 0.69), 2: (3, 0.68), 3: (2, 0.68)}[severity]
    deviation = 0.3 / (2 * math.sqrt(math.pi) * sigma)
    thick = 0.5 - 0.5 * math.erf((threshold - 0.65) / deviation / math.sqrt(2))
    assert abs(thick - share) < 0.005
    wet = np.mean([(corrupt(grey(0, (600, 600)), "spatter", severity, name)[..., 1] > 0).mean() for name in "ab"])
    assert 0.8 * thick < wet < 1.05 * thick  # the relief leaves some of the liquid dark


def equalised(levels: np.ndarray) -> np.ndarray:
    """Every level by the share of pixels below or at it, stretched so that the lowest is 0 and the highest 255."""
    counts = np.bincount(levels.astype(int).ravel(), minlength=256)
    lowest = counts[int(levels.min())]
    return np.rint((counts.cumsum() - lowest) * 255 / (levels.size - lowest)).clip(0)[levels.astype(int)]


def test_the_light_of_water_step_by_step() -> None:
    """OpenCV finds the rims and the distance to them, as in the original; the rest is written out."""
    liquid = gaussian((0.65 + 0.3 * np.random.default_rng(3).standard_normal((150, 170))).astype(np.float32), 10)
    drops = np.where(liquid >= 0.65, np.floor(liquid * 255), 0)
    rims = cv2.Canny(drops.astype(np.uint8), 50, 150)
    distance = cv2.distanceTransform(255 - rims, cv2.DIST_L2, 5).clip(max=20)
    mean = np.full((3, 3), 1 / 9)
    height = equalised(np.floor(direct_convolution(distance[..., None], mean, "reflect") + 1e-5))
    relief = direct_convolution(height, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), "reflect").clip(0, 255)
    light = drops * np.rint(direct_convolution(relief, mean, "reflect"))[..., 0]
    assert distance[drops > 0].max() > 12 and light.max() > 0
    np.testing.assert_allclose(water(liquid, 0.65, 0.6), 0.6 * light / light.max(), atol=1e-5)


def test_no_drop_is_no_light() -> None:
    for level in (0.0, 0.5, 3.0):
        assert np.isfinite(water(np.full((5, 6), level, dtype=np.float32), 0.69, 0.6)).all()
    assert not water(np.full((5, 6), 0.5, dtype=np.float32), 0.69, 0.6).any()


def test_liquid_thicker_than_one_counts_as_one() -> None:
    liquid = np.ones((6, 8), dtype=np.float32)
    liquid[:, 4:] = 1.1
    np.testing.assert_allclose(water(liquid, 0.69, 0.6), 0.6, rtol=1e-6)


@pytest.mark.parametrize(("severity", "level", "spread"), [(4, 0.65, 0.3), (5, 0.67, 0.4)])
def test_mud_step_by_step(severity: int, level: float, spread: float) -> None:
    image = scene((60, 70))
    draws = corruption_generator("spatter", severity, "a", 0).standard_normal((60, 70), dtype=np.float32)
    liquid = direct_convolution((level + spread * draws)[..., None], bell(1, 4), "edge")
    cover = direct_convolution(liquid > 0.65, bell(1.5, 6), "edge")
    cover[cover < 0.8] = 0
    assert is_floor_of(corrupt(image, "spatter", severity, "a"), image * (1 - cover) + cover * [63, 42, 20])


@pytest.mark.parametrize("severity", [4, 5])
def test_mud_is_brown_and_covers(severity: int) -> None:
    dirty = corrupt(grey(255), "spatter", severity, "a").astype(int)
    untouched = (dirty == 255).all(axis=2)
    covered = dirty[~untouched]
    assert (covered.max(axis=0) <= 255 * 0.2 + np.array([63, 42, 20]) * 0.8 + 1).all()  # nothing below a cover of 0.8
    assert (covered.min(axis=0) - [63, 42, 20]).tolist() in ([0, 0, 0], [1, 1, 1])  # at 4, hardly a spot is thick enough
    assert (covered[:, 0] > covered[:, 1]).all() and (covered[:, 1] > covered[:, 2]).all()


def test_higher_severity_spatters_more_pixels() -> None:
    shares = [
        np.mean([(corrupt(grey(90), "spatter", severity, name) != 90).any(axis=2).mean() for name in "abc"]) for severity in range(1, 6)
    ]
    assert shares[0] < shares[1] < shares[2] and shares[3] < shares[4]


@pytest.mark.parametrize(("severity", "quality"), list(enumerate((25, 18, 15, 10, 7), 1)))
def test_jpeg_is_a_saved_and_loaded_file(severity: int, quality: int, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "image.jpg", quality=quality)
    with Image.open(tmp_path / "image.jpg") as loaded:
        assert np.array_equal(corrupt(scene(), "jpeg_compression", severity, "a"), np.array(loaded))


# all of them


@pytest.mark.parametrize("kind", KINDS)
def test_higher_severity_changes_more(kind: str) -> None:
    clean = scene().astype(float)
    change = [np.mean([abs(corrupt(scene(), kind, severity, name) - clean).mean() for name in "abc"]) for severity in range(1, 6)]
    assert change[0] > 0.3 and all(less < more for less, more in pairwise(change))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (37, 911), (500, 375)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_size(kind: str, size: tuple[int, int]) -> None:
    image = scene(size)
    before = image.copy()
    for severity in range(1, 6):
        with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
            warnings.simplefilter("error")
            result = corrupt(image, kind, severity, "a")
        assert result.shape == (*size, 3) and result.dtype == np.uint8 and result.flags.c_contiguous
        assert result.flags.writeable and not np.shares_memory(result, image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("kind", KINDS)
def test_views_and_read_only_images(kind: str) -> None:
    view = np.asfortranarray(scene())[::-1, ::2]
    view.flags.writeable = False
    result = corrupt(view, kind, 3, "a")
    assert np.array_equal(result, corrupt(np.ascontiguousarray(view), kind, 3, "a")) and result.flags.c_contiguous


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_name_gives_the_same_image(kind: str) -> None:
    names = ["2007_000033", "2007_000039", "Größe/\udcff.jpg"]
    first = {name: corrupt(scene(), kind, 2, name) for name in names}
    np.random.seed(7)
    again = {name: corrupt(scene(), kind, 2, name) for name in reversed(names)}
    assert all(np.array_equal(first[name], again[name]) for name in names)


@pytest.mark.parametrize("kind", RANDOM)
def test_another_name_or_seed_gives_another_noise(kind: str) -> None:
    images = [corrupt(scene(), kind, 5, name, seed) for name, seed in (("a", 0), ("b", 0), ("a", 1), ("a", 10))]
    assert all(np.mean(images[i] != images[j]) > 0.05 for i in range(4) for j in range(i))


def test_global_random_numbers_are_left_alone() -> None:
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    for kind in KINDS:
        corrupt(scene(), kind, 4, "a")
    assert random.getstate() == python
    after = np.random.get_state(legacy=False)
    assert after["state"]["pos"] == numpy["state"]["pos"] and np.array_equal(after["state"]["key"], numpy["state"]["key"])


def test_the_generator_is_the_same_in_every_process() -> None:
    state = corruption_generator("spatter", 3, "2007_000033", 0).bit_generator.state["state"]["state"]
    assert state == 12926532400701031372002815883666471624  # Python's own hash() would change from process to process
    keys = product(KINDS, range(1, 6), ["a", "b", "1\na"], [0, 1])
    states = [corruption_generator(*key).bit_generator.state["state"]["state"] for key in keys]
    assert len(set(states)) == len(states)


@pytest.mark.parametrize("severity", [0, 6, -1, 2.5, "3", None])
def test_unknown_severities(severity: object) -> None:
    with pytest.raises(InputError, match=r"data\.severity=.*choose 1, 2, 3, 4, 5"):
        corrupt(scene(), "spatter", severity, "a")  # type: ignore[arg-type]


def test_unknown_corruptions() -> None:
    with pytest.raises(InputError, match=r"data\.corruption='snow': choose gaussian_noise, .*, jpeg_compression"):
        corrupt(scene(), "snow", 1, "a")


@pytest.mark.parametrize(
    "image", [scene()[..., 0], scene() / 255, np.zeros((4, 4, 4), dtype=np.uint8), np.zeros((0, 4, 3), dtype=np.uint8)]
)
def test_images_that_are_none(image: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"the image street has shape .* needs RGB"):
        corrupt(image, "gaussian_noise", 1, "street")
