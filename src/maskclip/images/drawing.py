"""Pictures for people: overlays of label maps, legends, and sheets of named columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from maskclip.functional import ignore_index
from maskclip.images.fonts import draw_text, length, printable, wrap
from maskclip.vocabulary import Palette

INK, PAPER, MARGIN = (35, 35, 40), (255, 255, 255), 8


def colourise(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """Labels (H, W) as colours, (H, W, 3) uint8; ignored pixels are white."""
    table = np.full((ignore_index(len(palette)) + 1, 3), 255, dtype=np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def overlay(image: np.ndarray, labels: np.ndarray, palette: Palette, opacity: float = 0.55) -> np.ndarray:
    """The image (H, W, 3) uint8 with its labels laid over it and thin dark borders between regions."""
    mixed = image * (1 - opacity) + colourise(labels, palette) * opacity
    ignored = labels == ignore_index(len(palette))
    mixed[ignored] = image[ignored]
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    mixed[border] *= 0.4
    return mixed.astype(np.uint8)


def magnify(picture: np.ndarray, side: int) -> np.ndarray:
    """A small picture (H, W, 3) or label map (H, W) with its longer side at least `side`; labels stay labels."""
    scale = max(1.0, side / max(picture.shape[:2]))
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    way = Image.Resampling.BICUBIC if picture.ndim == 3 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size, way))


def legend(names: Sequence[str], palette: Palette, width: int, size: int = 16) -> Image.Image:
    """A strip with a coloured square and a name for every class; long names are wrapped.

    The strip is `width` pixels wide, or wider where that leaves no room for a few letters.
    """
    step, line = size + MARGIN, _line_height(size)
    room = max(width - 2 * MARGIN - step, 4 * size)
    places: list[tuple[int, int, list[str]]] = []
    x, y, bottom = MARGIN, MARGIN, MARGIN + step
    for name in names:
        lines = wrap(printable(name), size, room)
        wide = step + int(max(length(text, size) for text in lines)) + 2 * MARGIN
        if x + wide > width and x > MARGIN:
            x, y = MARGIN, bottom
        places.append((x, y, lines))
        bottom = max(bottom, y + step + (len(lines) - 1) * line)
        x += wide
    strip = Image.new("RGB", (max(width, room + 2 * MARGIN + step), bottom), PAPER)
    draw = ImageDraw.Draw(strip)
    for (x, y, lines), colour in zip(places, palette, strict=False):
        draw.rectangle((x, y, x + size, y + size), fill=colour, outline=INK)
        for number, text in enumerate(lines):
            draw_text(draw, x + step, y + round(0.86 * size) + number * line, text, size, INK)
    return strip


def _line_height(size: int) -> int:
    return int(size * 1.3)


def sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], cell: int = 160) -> Image.Image:
    """Rows of pictures (H, W, 3) uint8 under column titles; every picture is fitted into a square of `cell` pixels."""
    size_of_text = max(13, cell // 11)
    line = _line_height(size_of_text)
    wrapped = [[text for part in title.split("\n") for text in wrap(printable(part), size_of_text, cell)] for title in titles]
    head = MARGIN + max(len(lines) for lines in wrapped) * line
    step = cell + MARGIN
    page = Image.new("RGB", (MARGIN + len(titles) * step, head + MARGIN + len(rows) * step), PAPER)
    draw = ImageDraw.Draw(page)
    for column, lines in enumerate(wrapped):
        x = MARGIN + column * step + cell // 2
        for number, text in enumerate(lines):
            baseline = head - (len(lines) - number) * line + size_of_text
            draw_text(draw, x - length(text, size_of_text) / 2, baseline, text, size_of_text, INK)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            scale = cell / max(picture.shape[:2])
            size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
            fitted = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
            left, top = MARGIN + column * step, head + MARGIN + row * step
            page.paste(fitted, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))
    return page


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other."""
    page = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), PAPER)
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height
    return page
