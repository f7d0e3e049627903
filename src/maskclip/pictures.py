"""Pictures for people: overlays of label maps, legends, and sheets of named columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskclip.functional import ignore_index
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
    """A strip of the given width with a coloured square and a name for every class."""
    font = ImageFont.load_default(size)
    step = size + MARGIN
    places: list[tuple[int, int]] = []
    x, y = MARGIN, MARGIN
    for name in names:
        length = int(font.getlength(name)) + step + 2 * MARGIN
        if x + length > width and x > MARGIN:
            x, y = MARGIN, y + step
        places.append((x, y))
        x += length
    strip = Image.new("RGB", (width, y + step), PAPER)
    draw = ImageDraw.Draw(strip)
    for (x, y), name, colour in zip(places, names, palette, strict=False):
        draw.rectangle((x, y, x + size, y + size), fill=colour, outline=INK)
        draw.text((x + size + MARGIN, y + size // 2), name, fill=INK, font=font, anchor="lm")
    return strip


def sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], cell: int = 160) -> Image.Image:
    """Rows of pictures (H, W, 3) uint8 under column titles; every picture is fitted into a square of `cell` pixels."""
    size_of_text = max(13, cell // 11)
    font = ImageFont.load_default(size_of_text)
    wrapped = [title.split("\n") for title in titles]
    head = MARGIN + max(len(lines) for lines in wrapped) * int(size_of_text * 1.3)
    step = cell + MARGIN
    page = Image.new("RGB", (MARGIN + len(titles) * step, head + MARGIN + len(rows) * step), PAPER)
    draw = ImageDraw.Draw(page)
    for column, lines in enumerate(wrapped):
        x = MARGIN + column * step + cell // 2
        draw.multiline_text((x, head), "\n".join(lines), fill=INK, font=font, anchor="md", align="center")
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
