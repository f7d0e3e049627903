"""Synthetic scenes with exact masks and captions, drawn from a seed.

The demo, the tests and the tiny CLIP use them, so that nothing needs to be downloaded. A scene has one or two *stuff*
regions and one to three *thing* blobs, and every region shows the texture of its class. Colours are jittered and shared
between classes (zebra and chessboard, grass and leaf, sky and water, ...), so that no class can be recognised by the colour
of a pixel.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from maskclip.functional import IGNORE_INDEX
from maskclip.textures import patterns
from maskclip.textures.patterns import Pattern, Shape

CAPTIONS = ("a photo of {}.", "a picture of {}.", "an image with {}.", "there is {} in the scene.", "{}.")
"""Templates of captions; {} is a list of classes, such as "a zebra, the sky and a leaf"."""

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Texture:
    """A class: its name, its pattern and its colours, each a hue (degrees), saturation and value, from pattern value 0 to 1.

    `thing`: whether the class is a thing or stuff. `synonym`: another name, which captions use too.
    """

    name: str
    pattern: Pattern
    colours: tuple[Colour, ...]
    thing: bool = True
    synonym: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The names of the class in captions."""
        return (self.name, self.synonym) if self.synonym else (self.name,)


CLASSES: tuple[Texture, ...] = (
    Texture("grass", patterns.blades, ((105, 0.65, 0.25), (85, 0.55, 0.75)), thing=False),
    Texture("sky", patterns.clouds, ((208, 0.55, 0.8), (205, 0.06, 0.97)), thing=False),
    Texture("sand", patterns.grains, ((35, 0.5, 0.55), (42, 0.3, 0.95)), thing=False),
    Texture("water", patterns.waves, ((206, 0.7, 0.45), (195, 0.25, 0.9)), thing=False),
    Texture("brick wall", patterns.bricks, ((35, 0.12, 0.8), (12, 0.6, 0.6)), thing=False),
    Texture("zebra", patterns.stripes, ((30, 0.1, 0.13), (45, 0.07, 0.93))),
    Texture("chessboard", patterns.checks, ((30, 0.15, 0.15), (45, 0.1, 0.93))),
    Texture("target", patterns.rings, ((40, 0.06, 0.95), (2, 0.8, 0.8))),
    Texture("ladybug", patterns.dots, ((5, 0.82, 0.8), (10, 0.3, 0.12)), synonym="ladybird"),
    Texture("leopard", patterns.rosettes, ((38, 0.5, 0.85), (25, 0.6, 0.18))),
    Texture("leaf", patterns.veins, ((115, 0.65, 0.38), (90, 0.45, 0.8))),
    Texture("fire", patterns.flames, ((4, 0.92, 0.4), (22, 0.92, 0.92), (50, 0.65, 1.0))),
    Texture("honeycomb", patterns.cells, ((30, 0.75, 0.35), (43, 0.75, 0.92))),
)


@dataclass(frozen=True)
class ColourJitter:
    """Random colours: standard deviation of the hue (degrees), share of regions with any hue, factors of saturation and value."""

    hue: float
    any_hue: float
    saturation: tuple[float, float]
    value: tuple[float, float]


JITTER = ColourJitter(16.0, 0.1, (0.6, 1.3), (0.8, 1.15))
"""The jitter of the data set: classes overlap in colour."""

GENTLE_JITTER = ColourJitter(10.0, 0.03, (0.75, 1.2), (0.85, 1.1))
"""Weaker jitter for the first steps of training the tiny CLIP."""


@dataclass(frozen=True)
class Scene:
    """A drawn `image` (H, W, 3) uint8 RGB and its `mask` (H, W) uint8 of class indices; outlines of things are ignored (255)."""

    image: np.ndarray
    mask: np.ndarray

    @property
    def visible(self) -> list[int]:
        """Indices of the classes that cover at least 1 % of the pixels, ascending."""
        counts = np.bincount(self.mask.ravel(), minlength=IGNORE_INDEX + 1)[: len(CLASSES)]
        return [int(i) for i in np.flatnonzero(counts >= 0.01 * self.mask.size)]


def paint(rng: np.random.Generator, texture: Texture, shape: Shape, jitter: ColourJitter = JITTER) -> np.ndarray:
    """An image (H, W, 3) of one texture, float32 in 0..1, with jittered colours."""
    field = texture.pattern(rng, shape)
    shift = rng.normal(0, jitter.hue) if rng.random() > jitter.any_hue else rng.uniform(-180, 180)
    saturation, value = rng.uniform(*jitter.saturation), rng.uniform(*jitter.value)
    anchors = np.array(
        [colorsys.hsv_to_rgb(((hue + shift) / 360) % 1, min(1, s * saturation), min(1, v * value)) for hue, s, v in texture.colours]
    )
    steps = np.linspace(0, 1, len(anchors))
    table = np.stack([np.interp(np.linspace(0, 1, 256), steps, channel) for channel in anchors.T], axis=1)
    return table.astype(np.float32).take((field * 255).astype(np.uint8), axis=0)


def _blob(rng: np.random.Generator, shape: Shape, radius: float) -> np.ndarray:
    """A star-shaped region with a wavy outline, (H, W) bool."""
    centre_y = rng.uniform(0.6 * radius, shape[0] - 0.6 * radius)
    centre_x = rng.uniform(0.6 * radius, shape[1] - 0.6 * radius)
    angle = np.linspace(0, patterns.TURN, 60, endpoint=False)
    outline = np.ones_like(angle)
    for order in (2, 3, 5):
        outline += rng.uniform(-0.22, 0.22) / order**0.5 * np.cos(order * angle + rng.uniform(0, patterns.TURN))
    stretch = rng.uniform(0.8, 1.25)
    points = np.stack(
        [
            centre_x + stretch * radius * outline * np.cos(angle),
            centre_y + radius / stretch * outline * np.sin(angle),
        ],
        axis=1,
    )
    canvas = np.zeros(shape, dtype=np.uint8)
    cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], 1)
    return canvas.astype(bool)


def _backdrop(rng: np.random.Generator, shape: Shape, stuffs: list[int]) -> np.ndarray:
    """Class indices (H, W) uint8 of one or two stuff regions that fill the image; two regions meet at a wavy horizon."""
    mask = np.full(shape, stuffs[0], dtype=np.uint8)
    if len(stuffs) == 2:
        x = np.arange(shape[1])
        horizon = shape[0] * rng.uniform(0.3, 0.7) + rng.uniform(0, 5) * np.sin(
            patterns.TURN * x / shape[1] * rng.uniform(0.5, 2) + rng.uniform(0, patterns.TURN)
        )
        mask[np.arange(shape[0])[:, None] > horizon] = stuffs[1]
    return mask


def _light(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 with brightness that decreases to one side, a colour cast and sensor noise."""
    y = np.linspace(-1, 1, image.shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, image.shape[1], dtype=np.float32)
    angle = rng.uniform(0, patterns.TURN)
    slope = rng.uniform(0, 0.2)
    gain = np.float32(rng.uniform(0.85, 1.1)) + np.float32(slope * np.cos(angle)) * x + np.float32(slope * np.sin(angle)) * y
    cast = rng.uniform(0.94, 1.06, 3).astype(np.float32)
    lit = image * gain[..., None] * cast
    lit += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.035))
    return (np.clip(lit, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw_scene(rng: np.random.Generator, shape: Shape, jitter: ColourJitter = JITTER) -> Scene:
    """A scene of height and width `shape` with one or two stuff classes and one to three things."""
    stuff_ids = [i for i, texture in enumerate(CLASSES) if not texture.thing]
    thing_ids = [i for i, texture in enumerate(CLASSES) if texture.thing]
    stuffs = [int(i) for i in rng.choice(stuff_ids, size=1 + int(rng.random() < 0.5), replace=False)]
    things = [int(i) for i in rng.choice(thing_ids, size=int(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25])), replace=False)]
    mask = _backdrop(rng, shape, stuffs)
    largest = {1: 0.42, 2: 0.33, 3: 0.29}[len(things)] * min(shape)
    for thing in things:
        mask[_blob(rng, shape, rng.uniform(0.65, 1) * largest)] = thing
    image = np.empty((*shape, 3), dtype=np.float32)
    for index in (*stuffs, *things):
        region = mask == index
        image[region] = paint(rng, CLASSES[index], shape, jitter)[region]
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, kernel) > 0
    touches_thing = cv2.dilate(np.isin(mask, thing_ids).astype(np.uint8), kernel) > 0
    mask = np.where(edge & touches_thing, IGNORE_INDEX, mask).astype(np.uint8)
    return Scene(_light(rng, image), mask)


def draw_close_up(rng: np.random.Generator, shape: Shape, jitter: ColourJitter = JITTER) -> Scene:
    """A scene that is filled by a single texture."""
    index = int(rng.integers(len(CLASSES)))
    image = _light(rng, paint(rng, CLASSES[index], shape, jitter))
    return Scene(image, np.full(shape, index, dtype=np.uint8))


def caption(rng: np.random.Generator, classes: list[int], omit: float = 0.15) -> str:
    """A sentence that names `classes` (indices) in random order; with probability `omit` it leaves out one of several."""
    order = [int(i) for i in rng.permutation(classes)]
    if len(order) > 1 and rng.random() < omit:
        order.pop()
    parts = []
    for index in order:
        word = str(rng.choice(CLASSES[index].words))
        article = ("an" if word[0] in "aeiou" else "a") if CLASSES[index].thing else "the"
        parts.append(f"{article} {word}")
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return str(rng.choice(CAPTIONS)).format(listed)


def stream(seed: int | list[int], shape: Shape, close_ups: float = 0.3, jitter: ColourJitter = JITTER) -> Iterator[tuple[np.ndarray, str]]:
    """Endless captioned images, (H, W, 3) uint8 with a sentence; equal seeds give equal streams. `close_ups`: share of single textures."""
    rng = np.random.default_rng(seed)
    while True:
        draw = draw_close_up if rng.random() < close_ups else draw_scene
        scene = draw(rng, shape, jitter)
        yield scene.image, caption(rng, scene.visible)
