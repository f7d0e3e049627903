"""Figures of label maps: overlays, legends, and sheets of titled columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from maskclip.functional import ignore_index
from maskclip.images.fonts import draw_text, length, printable, wrap
from maskclip.vocabulary import Palette

INK, PAPER, MARGIN = (35, 35, 40), (255, 255, 255), 8


def colourise(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """Colours (H, W, 3) uint8 of labels (H, W); ignored pixels are white."""
    table = np.full((ignore_index(len(palette)) + 1, 3), 255, dtype=np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def overlay(image: np.ndarray, labels: np.ndarray, palette: Palette, opacity: float = 0.55) -> np.ndarray:
    """The image (H, W, 3) uint8 blended with the colours of its labels, with thin dark borders between regions."""
    mixed = image * (1 - opacity) + colourise(labels, palette) * opacity
    ignored = labels == ignore_index(len(palette))
    mixed[ignored] = image[ignored]
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    mixed[border] *= 0.4
    return mixed.astype(np.uint8)


def magnify(image: np.ndarray, side: int) -> np.ndarray:
    """An image (H, W, 3), bicubic, or a label map (H, W), nearest, enlarged until its long side is at least `side` pixels."""
    scale = max(1.0, side / max(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    resampling = Image.Resampling.BICUBIC if image.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize(size, resampling))


def legend(names: Sequence[str], palette: Palette, width: int) -> Image.Image:
    """A legend with a coloured square and a name for each class; long names are wrapped.

    It is `width` pixels wide, or wider if that is too narrow for a few letters.
    """
    size = 16  # of squares and text
    step, line = size + MARGIN, _line_height(size)
    room = max(width - 2 * MARGIN - step, 4 * size)
    entries: list[tuple[int, int, list[str]]] = []
    x, y, bottom = MARGIN, MARGIN, MARGIN + step
    for name in names:
        lines = wrap(printable(name), size, room)
        entry_width = step + int(max(length(text, size) for text in lines)) + 2 * MARGIN
        if x + entry_width > width and x > MARGIN:
            x, y = MARGIN, bottom
        entries.append((x, y, lines))
        bottom = max(bottom, y + step + (len(lines) - 1) * line)
        x += entry_width
    strip = Image.new("RGB", (max(width, room + 2 * MARGIN + step), bottom), PAPER)
    draw = ImageDraw.Draw(strip)
    for (x, y, lines), colour in zip(entries, palette, strict=False):
        draw.rectangle((x, y, x + size, y + size), fill=colour, outline=INK)
        for number, text in enumerate(lines):
            draw_text(draw, x + step, y + round(0.86 * size) + number * line, text, size, INK)
    return strip


def _line_height(size: int) -> int:
    return int(size * 1.3)


def sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], cell: int = 160) -> Image.Image:
    """Rows of images (H, W, 3) uint8 under column titles; every image is fitted into a square of `cell` pixels."""
    font_size = max(13, cell // 11)
    line = _line_height(font_size)
    wrapped = [[text for part in title.split("\n") for text in wrap(printable(part), font_size, cell)] for title in titles]
    head = MARGIN + max(len(lines) for lines in wrapped) * line
    step = cell + MARGIN
    page = Image.new("RGB", (MARGIN + len(titles) * step, head + MARGIN + len(rows) * step), PAPER)
    draw = ImageDraw.Draw(page)
    for column, lines in enumerate(wrapped):
        x = MARGIN + column * step + cell // 2
        for number, text in enumerate(lines):
            baseline = head - (len(lines) - number) * line + font_size
            draw_text(draw, x - length(text, font_size) / 2, baseline, text, font_size, INK)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            scale = cell / max(image.shape[:2])
            size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            fitted = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
            left, top = MARGIN + column * step, head + MARGIN + row * step
            page.paste(fitted, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))
    return page


def stack(images: Sequence[Image.Image]) -> Image.Image:
    """One image with all `images` below each other."""
    page = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), PAPER)
    top = 0
    for image in images:
        page.paste(image, (0, top))
        top += image.height
    return page
