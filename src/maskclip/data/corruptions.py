"""The eight corruptions of MaskCLIP's robustness table, in five severities each.

The definitions and numbers are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019 (ImageNet-C), for images of any size. Each function of `CORRUPTIONS` takes an
image (H, W, 3) uint8 RGB, a severity 1-5 and a random generator, and returns a new image of the same kind.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from maskclip.errors import InputError

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

SEVERITIES = range(1, 6)

WATER = np.array((175, 238, 238), dtype=np.float32) / 255
MUD = np.array((63, 42, 20), dtype=np.float32) / 255


def corrupt(image: np.ndarray, kind: str, severity: int, name: str, seed: int = 0) -> np.ndarray:
    """A new image (H, W, 3) uint8 RGB: `image`, of the same shape and type, with a corruption of `CORRUPTIONS`, severity 1-5.

    The random numbers are a function of `seed`, `kind`, `severity` and the `name` of the image: it looks the same in
    every process and in any order. Raises `InputError` if there is no such corruption or severity or it is no such image.
    """
    if kind not in CORRUPTIONS:
        raise InputError(f"data.corruption={kind!r}: choose {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise InputError(f"data.severity={severity!r}: choose {', '.join(map(str, SEVERITIES))}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"the image {name} has shape {image.shape} and type {image.dtype}: a corruption needs RGB, (H, W, 3) uint8")
    return CORRUPTIONS[kind](image, int(severity), generator(kind, int(severity), name, seed))


def generator(kind: str, severity: int, name: str, seed: int) -> np.random.Generator:
    """The random numbers of one corrupted image; no other combination of arguments has the same."""
    key = f"{seed}\n{kind}\n{severity}\n{name}".encode(errors="backslashreplace")  # a file's name may be no valid text
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest(), "big"))


def to_unit(image: np.ndarray) -> np.ndarray:
    """The image as float32 in 0..1."""
    return image.astype(np.float32) / np.float32(255)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Values in units of white, clipped to 0..1, as uint8: the next lower level, as in the original.

    A thousandth of a level is added first: rounding errors of floats, which differ from machine to machine, would
    otherwise take a whole level from areas whose value is exactly a level.
    """
    return (np.clip(values, 0, 1) * np.float32(255) + np.float32(1e-3)).astype(np.uint8, order="C")


def gaussian(field: np.ndarray, sigma: float) -> np.ndarray:
    """The float32 field (H, W) or (H, W, 3) blurred, `sigma` in pixels, its edge pixels repeated outwards.

    The kernel ends at four sigma, as that of `skimage.filters.gaussian`; OpenCV's own choice would be another.
    """
    side = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(field, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)


def gaussian_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image plus normal noise, independent in every pixel and channel."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return to_bytes(to_unit(image) + sigma * rng.standard_normal(image.shape, dtype=np.float32))


def shot_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image as counted photons: Poisson numbers, of which white has `photons` on average."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return to_bytes(rng.poisson(to_unit(image) * photons).astype(np.float32) / photons)


def impulse_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image with salt and pepper: a share of the values, drawn per pixel and channel, half of them 255, half 0."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    draw = rng.random(image.shape, dtype=np.float32)
    result = np.where(draw < share, np.uint8(0), image)
    result[draw < share / 2] = 255
    return result


def speckle_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image plus normal noise times the image, independent in every pixel and channel."""
    sigma = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    return to_bytes(to_unit(image) * (1 + sigma * rng.standard_normal(image.shape, dtype=np.float32)))


def gaussian_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image blurred by a Gaussian; nothing is drawn."""
    return to_bytes(gaussian(to_unit(image), (1, 2, 3, 4, 6)[severity - 1]))


def defocus_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image blurred by a disc, mirrored at its edges; nothing is drawn."""
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    return to_bytes(cv2.filter2D(to_unit(image), -1, disc(radius, softness)))


def disc(radius: int, softness: float) -> np.ndarray:
    """The kernel of a lens out of focus, float32, 17 x 17 or larger: a disc, `radius` in pixels, blurred by sigma `softness`.

    At radius 8 and 10 the disc touches the edge of its square, which mirrors it in the blur: as in the original, the
    kernel then sums to 1.013 and 1.011 and brightens the image by so much.
    """
    reach = max(radius, 8)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    flat = (x * x + y * y <= radius * radius).astype(np.float32)
    side = 3 if radius <= 8 else 5
    return cv2.GaussianBlur(flat / flat.sum(), (side, side), softness)


def spatter(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image behind splashes: of water, added as light, up to severity 3; of mud, laid over it, from 4 on."""
    level, spread, sigma, threshold, strength = (
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    )[severity - 1]
    liquid = gaussian(level + spread * rng.standard_normal(image.shape[:2], dtype=np.float32), sigma)
    if severity <= 3:
        return to_bytes(to_unit(image) + water(liquid, threshold, strength)[..., None] * WATER)
    cover = gaussian((liquid > threshold).astype(np.float32), strength)
    cover[cover < 0.8] = 0  # mud has hard borders
    return to_bytes(to_unit(image) * (1 - cover[..., None]) + cover[..., None] * MUD)


def water(liquid: np.ndarray, threshold: float, strength: float) -> np.ndarray:
    """The light that drops throw, float32 (H, W) in 0..`strength`, from the thickness of the liquid, float32 (H, W).

    There is a drop where `liquid` is at least `threshold`; it shines by its thickness and the relief of its rim.
    """
    drops = (np.where(liquid < threshold, 0, liquid).clip(0, 1) * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(drops, 50, 150), cv2.DIST_L2, 5)
    height = cv2.equalizeHist(cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8))
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], dtype=np.float32)  # lit from the lower right
    light = drops * cv2.blur(cv2.filter2D(height, -1, emboss), (3, 3)).astype(np.float32)
    return light * (strength / max(float(light.max()), 1.0))  # at most `strength`; 1.0: there may be no drop at all


def jpeg_compression(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image after JPEG at a low quality; nothing is drawn."""
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=(25, 18, 15, 10, 7)[severity - 1])
    return np.array(Image.open(stored))


CORRUPTIONS: dict[str, Corruption] = {
    f.__name__: f
    for f in (gaussian_noise, shot_noise, impulse_noise, speckle_noise, gaussian_blur, defocus_blur, spatter, jpeg_compression)
}
"""Every corruption by its name."""
