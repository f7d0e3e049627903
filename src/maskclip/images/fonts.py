"""Text in any script on images: a character is drawn with a font that has it, or as U+XXXX if there is none."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

SHIPPED = ("DejaVuSans.ttf", "DroidSansFallback.ttf", "NotoEmoji-Regular.ttf")
"""Font files of the package."""

_LETTERS = [str(Path(__file__).parent.parent / "assets" / "fonts" / name) for name in SHIPPED]
_EMOJI = _LETTERS[::-1]
_SHAPING = features.check("raqm")
_JOINER, _PROBE, _MISSING = "\N{ZERO WIDTH JOINER}", 24, "\U0010ffff"
_system_fonts_of_blocks: dict[int, str | None] = {}

Colour = tuple[int, int, int]


def printable(text: str) -> str:
    """Text that can be drawn: composed (NFC), with blanks for control characters and U+XXXX for characters without a glyph."""
    return " ".join("".join(_drawable(char) for char in unicodedata.normalize("NFC", text)).split())


def _drawable(char: str) -> str:
    kind = unicodedata.category(char)
    if char.isspace() or kind == "Cc":
        return " "
    if kind in ("Cf", "Me") or 0xFE00 <= ord(char) <= 0xFE0F:  # invisible or enclosing, as in keycaps
        return char if char == _JOINER and _SHAPING else ""
    return char if font_for(char) else f" U+{ord(char):04X} "


def length(text: str, size: int) -> float:
    """Width of a printable text in pixels."""
    return sum(font.getlength(part) for part, font in _runs(text, size))


def wrap(text: str, size: int, width: float) -> list[str]:
    """Lines of a printable text, at most `width` pixels wide, broken at blanks, and within words that are wider."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if length(joined, size) <= width:
            lines[-1] = joined
            continue
        pieces = list(_pieces(word, size, width))
        lines = [*lines, *pieces] if lines[-1] else pieces if len(lines) == 1 else lines[:-1] + pieces
    return lines


def _pieces(word: str, size: int, width: float) -> Iterator[str]:
    start = 0
    for end in range(1, len(word)):
        if not _continues(word, end) and length(word[start : _end(word, end)], size) > width:
            yield word[start:end]
            start = end
    yield word[start:]


def _end(word: str, start: int) -> int:
    """End of the cluster that begins at `start`."""
    end = start + 1
    while end < len(word) and _continues(word, end):
        end += 1
    return end


def _continues(word: str, index: int) -> bool:
    """Whether a character combines with the previous one."""
    return unicodedata.category(word[index])[0] == "M" or _JOINER in word[index - 1 : index + 1]


def draw_text(draw: ImageDraw.ImageDraw, x: float, baseline: float, text: str, size: int, fill: Colour) -> None:
    """Draw a printable text with its left end at `x`."""
    for part, font in _runs(text, size):
        draw.text((x, baseline), part, fill=fill, font=font, anchor="ls")
        x += font.getlength(part)


def _runs(text: str, size: int) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
    """Parts of a text with the font for each."""
    part, path = "", _LETTERS[0]
    for index, char in enumerate(text):
        stays = char in (" ", _JOINER) or (index and _continues(text, index) and _has_glyph(path, char))
        other = path if stays else font_for(char) or path
        if char == " " and path == _EMOJI[0]:  # whose blanks are wide
            other = _LETTERS[0]
        if part and other != path:
            yield part, _font(path, size)
            part = ""
        part, path = part + char, other
    if part:
        yield part, _font(path, size)


@lru_cache(maxsize=64)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def font_for(char: str) -> str | None:
    """Path of the font for a character, one of the package before one of the system; None if no font has it."""
    if path := first_font(char, _EMOJI if ord(char) >= 0x1F000 else _LETTERS):
        return path
    if unicodedata.category(char) in ("Co", "Cn", "Cs"):  # private, unassigned, or half of a surrogate pair
        return None
    block = ord(char) >> 7  # one search for each block of characters, because a system may have thousands of fonts
    if block not in _system_fonts_of_blocks:
        _system_fonts_of_blocks[block] = first_font(char, system_fonts())
    path = _system_fonts_of_blocks[block]
    return path if path and _has_glyph(path, char) else None


def first_font(char: str, paths: Sequence[str]) -> str | None:
    """The first of the fonts at `paths` that has a character, or None."""
    return next((path for path in paths if _has_glyph(path, char)), None)


@lru_cache(maxsize=65536)
def _has_glyph(path: str, char: str) -> bool:
    """Whether a font draws a character differently from a character that no font has."""
    try:
        font = ImageFont.truetype(path, _PROBE, layout_engine=ImageFont.Layout.BASIC)
        glyph = _drawn(font, char)
    except (OSError, ValueError):  # no scalable font, or half of a surrogate pair
        return False
    return any(glyph) and glyph != _drawn(font, _MISSING)


def _drawn(font: ImageFont.FreeTypeFont, char: str) -> bytes:
    page = Image.new("L", (3 * _PROBE, 3 * _PROBE))
    ImageDraw.Draw(page).text((_PROBE, 2 * _PROBE), char, fill=255, font=font, anchor="ls")
    return page.tobytes()


@cache
def system_fonts() -> list[str]:
    """Paths of all font files in the system's font folders."""
    home = Path.home()
    folders = {
        "win32": [Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts"), home / "AppData/Local/Microsoft/Windows/Fonts"],
        "darwin": [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"],
    }.get(sys.platform, [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts", home / ".fonts"])
    paths = sorted(str(path) for folder in folders for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf", ".ttc"))
    return [path for path in paths if "lastresort" not in path.lower()]  # which draws a box for every character
