"""The eight corruptions of MaskCLIP's robustness table, in five severities each.

The definitions and numbers are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019 (ImageNet-C), for images of any size. Each function of `CORRUPTIONS` takes an
image (H, W, 3) uint8 RGB, a severity 1-5 and a random generator, and returns a new image of the same kind.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from maskclip.data.seeds import corruption_generator
from maskclip.errors import InputError

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

SEVERITIES = range(1, 6)

WATER = np.array((175, 238, 238), dtype=np.float32) / 255
MUD = np.array((63, 42, 20), dtype=np.float32) / 255


def corrupt(image: np.ndarray, kind: str, severity: int, name: str, seed: int = 0) -> np.ndarray:
    """A copy of `image` (H, W, 3) uint8 RGB with the corruption `kind`, a key of `CORRUPTIONS`, at a severity from 1 to 5.

    Random numbers depend on `seed`, `kind`, `severity` and the `name` of the image only, so that results are the same in every
    process and order. Raises `InputError` for an unknown corruption or severity, or an image of another shape or type.
    """
    if kind not in CORRUPTIONS:
        raise InputError(f"data.corruption={kind!r}: choose {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise InputError(f"data.severity={severity!r}: choose {', '.join(map(str, SEVERITIES))}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"the image {name} has shape {image.shape} and type {image.dtype}: a corruption needs RGB, (H, W, 3) uint8")
    return CORRUPTIONS[kind](image, int(severity), corruption_generator(kind, int(severity), name, seed))


def to_unit(image: np.ndarray) -> np.ndarray:
    """The image as float32 in 0..1."""
    return image.astype(np.float32) / np.float32(255)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Values in units of white, clipped to 0..1 and truncated to uint8, as in the original code.

    A thousandth of a level is added first. Otherwise float rounding, which differs between machines, could lower values that
    are exactly a level by a whole level.
    """
    return (np.clip(values, 0, 1) * np.float32(255) + np.float32(1e-3)).astype(np.uint8, order="C")


def gaussian(field: np.ndarray, sigma: float) -> np.ndarray:
    """The float32 field (H, W) or (H, W, 3) blurred with `sigma` in pixels; edge pixels are repeated beyond the border.

    The kernel is truncated at four sigma as in `skimage.filters.gaussian`, not at OpenCV's default.
    """
    side = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(field, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)


def gaussian_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image plus normal noise, independent in every pixel and channel."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return to_bytes(to_unit(image) + sigma * rng.standard_normal(image.shape, dtype=np.float32))


def shot_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image as photon counts: Poisson numbers, `photons` on average for white."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return to_bytes(rng.poisson(to_unit(image) * photons).astype(np.float32) / photons)


def impulse_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image with salt and pepper noise: a share of the values, chosen per pixel and channel, becomes 255 or 0, half each."""
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
    """The image blurred by a Gaussian; not random."""
    return to_bytes(gaussian(to_unit(image), (1, 2, 3, 4, 6)[severity - 1]))


def defocus_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image blurred by a disc, mirrored at its edges; not random."""
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    return to_bytes(cv2.filter2D(to_unit(image), -1, disc(radius, softness)))


def disc(radius: int, softness: float) -> np.ndarray:
    """The kernel of defocus blur, float32, 17 x 17 or larger: a disc with `radius` in pixels, blurred with sigma `softness`.

    At radius 8 and 10 the disc touches the border of the kernel, where the blur mirrors it. As in the original code, these
    kernels sum to 1.013 and 1.011, which brightens the image by as much.
    """
    reach = max(radius, 8)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    flat = (x * x + y * y <= radius * radius).astype(np.float32)
    side = 3 if radius <= 8 else 5
    return cv2.GaussianBlur(flat / flat.sum(), (side, side), softness)


def spatter(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image behind splashes: water, added as light, for severities 1 to 3; mud, which covers the image, for 4 and 5."""
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
    cover[cover < 0.8] = 0  # mud has hard edges
    return to_bytes(to_unit(image) * (1 - cover[..., None]) + cover[..., None] * MUD)


def water(liquid: np.ndarray, threshold: float, strength: float) -> np.ndarray:
    """The light reflected by drops, float32 (H, W) in 0..`strength`, from the thickness of the liquid, float32 (H, W).

    There is a drop wherever `liquid` is at least `threshold`. Its brightness depends on its thickness and the relief of its rim.
    """
    drops = (np.where(liquid < threshold, 0, liquid).clip(0, 1) * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(drops, 50, 150), cv2.DIST_L2, 5)
    height = cv2.equalizeHist(cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8))
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], dtype=np.float32)  # lit from the lower right
    light = drops * cv2.blur(cv2.filter2D(height, -1, emboss), (3, 3)).astype(np.float32)
    return light * (strength / max(float(light.max()), 1.0))  # 1.0 prevents a division by zero without drops


def jpeg_compression(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The image after JPEG compression at a low quality; not random."""
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=(25, 18, 15, 10, 7)[severity - 1])
    return np.array(Image.open(stored))


CORRUPTIONS: dict[str, Corruption] = {
    f.__name__: f
    for f in (gaussian_noise, shot_noise, impulse_noise, speckle_noise, gaussian_blur, defocus_blur, spatter, jpeg_compression)
}
"""Every corruption by its name."""
