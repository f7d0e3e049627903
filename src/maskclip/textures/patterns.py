"""Procedural patterns, one for each class of the textures data set.

A pattern is a function of a random generator and an image shape (height, width). It returns a field (H, W), float32 in
0..1, which `scenes.py` colours and cuts into regions. Orientation, scale, phase and distortion are random in every call, so that
a class is defined by its structure only.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Field = np.ndarray
Shape = tuple[int, int]
Pattern = Callable[[np.random.Generator, Shape], Field]

TURN = 2 * np.pi


def noise(rng: np.random.Generator, shape: Shape, cell_y: float, cell_x: float | None = None) -> Field:
    """Smooth value noise (H, W) in 0..1 with features of about `cell_y` x `cell_x` pixels."""
    cell_x = cell_y if cell_x is None else cell_x
    rows, columns = int(shape[0] / cell_y) + 3, int(shape[1] / cell_x) + 3
    grid = rng.random((rows, columns), dtype=np.float32)
    size = (max(shape[1], round(columns * cell_x)), max(shape[0], round(rows * cell_y)))
    field = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    top = int(rng.integers(0, field.shape[0] - shape[0] + 1))
    left = int(rng.integers(0, field.shape[1] - shape[1] + 1))
    return np.clip(field[top : top + shape[0], left : left + shape[1]], 0, 1)


def axes(
    rng: np.random.Generator, shape: Shape, period: tuple[float, float], tilt: float = np.pi, warp: float = 0.0
) -> tuple[Field, Field]:
    """Coordinates u and v, each (H, W), in units of a random period in pixels, rotated by up to `tilt` radians in either direction.

    `warp` bends them by up to about that many periods, over a distance of a few periods.
    """
    length, angle = rng.uniform(*period), rng.uniform(-tilt, tilt)
    cosine, sine = np.float32(np.cos(angle) / length), np.float32(np.sin(angle) / length)
    y, x = np.ogrid[: shape[0], : shape[1]]
    x, y = x.astype(np.float32), y.astype(np.float32)
    u = x * cosine + y * sine + np.float32(rng.uniform(0, 9))
    v = y * cosine - x * sine + np.float32(rng.uniform(0, 9))
    if warp:
        u = u + np.float32(warp) * (noise(rng, shape, 2.5 * length) - np.float32(0.5))
        v = v + np.float32(warp) * (noise(rng, shape, 2.5 * length) - np.float32(0.5))
    return u, v


def ramp(field: Field, sharpness: float) -> Field:
    """A soft step: 0 far below zero, 1 far above."""
    return np.clip(0.5 + sharpness * field, 0, 1).astype(np.float32)


def stripes(rng: np.random.Generator, shape: Shape) -> Field:
    """Zebra: wavy parallel stripes."""
    u, _ = axes(rng, shape, (7, 12), warp=0.7)
    return ramp(np.sin(TURN * u) + rng.uniform(-0.3, 0.3), 1.4)


def checks(rng: np.random.Generator, shape: Shape) -> Field:
    """Chessboard: alternating squares."""
    u, v = axes(rng, shape, (11, 17))
    return ramp(np.sin(TURN * u) * np.sin(TURN * v), 3.0)


def rings(rng: np.random.Generator, shape: Shape) -> Field:
    """Target: concentric rings around many centres, so that every part is visibly curved."""
    u, v = axes(rng, shape, (26, 36))
    radius = np.hypot(u - np.round(u), v - np.round(v))
    return ramp(np.cos(TURN * rng.uniform(2.7, 3.4) * radius), 1.6)


def dots(rng: np.random.Generator, shape: Shape) -> Field:
    """Ladybug: round dots on a bent hexagonal lattice."""
    u, v = axes(rng, shape, (10, 15), warp=0.25)
    row = np.round(v)
    u = u + 0.5 * (row % 2)
    return ramp(rng.uniform(0.24, 0.3) - np.hypot(u - np.round(u), v - row), 6.0)


def rosettes(rng: np.random.Generator, shape: Shape) -> Field:
    """Leopard: broken rings, crowded and irregular."""
    u, v = axes(rng, shape, (9, 13), warp=0.9)
    row = np.round(v)
    u = u + 0.5 * (row % 2)
    ring = 0.13 - np.abs(np.hypot(u - np.round(u), v - row) - 0.3)
    return ramp(np.minimum(ring, 0.6 * (noise(rng, shape, 4) - 0.3)), 8.0)


def veins(rng: np.random.Generator, shape: Shape) -> Field:
    """Leaf: a midrib with pairs of side veins, like a herringbone."""
    u, v = axes(rng, shape, (6, 9), warp=0.3)
    width = rng.uniform(3.2, 4.5)
    across = np.abs(v / width - np.round(v / width)) * width
    side = np.cos(TURN * (u - rng.uniform(0.6, 0.9) * across)) - 0.45
    return np.maximum(ramp(side, 1.3), ramp(0.28 - across, 5.0))


def flames(rng: np.random.Generator, shape: Shape) -> Field:
    """Fire: tongues stretched in one direction and warped."""
    u, v = axes(rng, shape, (8, 13), tilt=0.5, warp=1.6)
    tongues = 0.5 + 0.5 * np.sin(TURN * (u + 0.35 * np.sin(TURN * 0.45 * v)))
    return np.clip(0.62 * tongues + 0.75 * noise(rng, shape, 14, 7) - 0.2, 0, 1).astype(np.float32)


def cells(rng: np.random.Generator, shape: Shape) -> Field:
    """Honeycomb: hexagonal cells with thin walls, from three plane waves 60 degrees apart."""
    u, v = axes(rng, shape, (8, 12), warp=0.15)
    third = np.float32(np.sqrt(3) / 2)
    waves = np.cos(TURN * u) + np.cos(TURN * (third * v - 0.5 * u)) + np.cos(TURN * (third * v + 0.5 * u))
    return ramp(waves + rng.uniform(0.55, 0.8), 1.5)


def bricks(rng: np.random.Generator, shape: Shape) -> Field:
    """Brick wall: rows of bricks, each shifted by half a brick, with mortar between them."""
    u, v = axes(rng, shape, (7, 10), tilt=0.25)
    row = np.floor(v)
    along = 0.5 * u + 0.5 * (row % 2)
    gap = np.minimum(2 * np.abs(along - np.round(along)), np.abs(v - np.round(v)))
    return ramp(gap - 0.12, 6.0) * (0.75 + 0.25 * noise(rng, shape, 9, 16))


def blades(rng: np.random.Generator, shape: Shape) -> Field:
    """Grass: thin upright blades."""
    fine = noise(rng, shape, rng.uniform(7, 11), rng.uniform(1.4, 2.0))
    tilted = cv2.warpAffine(
        fine,
        np.array([[1, rng.uniform(-0.35, 0.35), 0], [0, 1, 0]], dtype=np.float32),
        (shape[1], shape[0]),
        borderMode=cv2.BORDER_REFLECT,
    )
    return np.clip(1.5 * tilted - 0.25, 0, 1)


def clouds(rng: np.random.Generator, shape: Shape) -> Field:
    """Sky: soft clouds, larger than the features of all other patterns."""
    large = noise(rng, shape, 22, 40) + 0.35 * noise(rng, shape, 11, 20)
    return np.clip(2.2 * (large - rng.uniform(0.5, 0.75)), 0, 1)


def grains(rng: np.random.Generator, shape: Shape) -> Field:
    """Sand: grains of one pixel over faint dunes."""
    return np.clip(0.7 * rng.random(shape, dtype=np.float32) + 0.4 * noise(rng, shape, 12, 30) - 0.05, 0, 1)


def waves(rng: np.random.Generator, shape: Shape) -> Field:
    """Water: flat, nearly horizontal waves with glints."""
    _, v = axes(rng, shape, (6, 9), tilt=0.2, warp=1.5)
    swell = 0.5 + 0.5 * np.sin(TURN * v)
    return np.clip(swell * swell * (0.55 + 0.8 * noise(rng, shape, 4, 12)), 0, 1)
