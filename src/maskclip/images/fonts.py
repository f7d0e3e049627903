"""Text in any script on an image: every character is drawn by a font that has it, or written as U+XXXX, never as a box."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

_SHIPPED = Path(__file__).parent.parent / "assets" / "fonts"
_LETTERS = [str(_SHIPPED / name) for name in ("DejaVuSans.ttf", "DroidSansFallback.ttf", "NotoEmoji-Regular.ttf")]
_EMOJI = _LETTERS[::-1]
_SHAPING = features.check("raqm")
_JOINER, _PROBE, _MISSING = "\N{ZERO WIDTH JOINER}", 24, "\U0010ffff"

_found_for: dict[int, str | None] = {}

Colour = tuple[int, int, int]


def printable(text: str) -> str:
    """Text in which every character can be drawn: composed (NFC), controls as blanks, characters without a glyph as U+XXXX."""
    return " ".join("".join(_drawable(char) for char in unicodedata.normalize("NFC", text)).split())


def _drawable(char: str) -> str:
    kind = unicodedata.category(char)
    if char.isspace() or kind == "Cc":
        return " "
    if kind in ("Cf", "Me") or 0xFE00 <= ord(char) <= 0xFE0F:  # invisible, or around the character before, as in keycaps
        return char if char == _JOINER and _SHAPING else ""
    return char if _font_for(char) else f" U+{ord(char):04X} "


def length(text: str, size: int) -> float:
    """Width of a printable text in pixels."""
    return sum(font.getlength(part) for part, font in _runs(text, size))


def wrap(text: str, size: int, width: float) -> list[str]:
    """Lines of a printable text that are at most `width` pixels wide, broken at blanks, or within words that are wider."""
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
    """Whether a character belongs to the one before it."""
    return unicodedata.category(word[index])[0] == "M" or _JOINER in word[index - 1 : index + 1]


def draw_text(draw: ImageDraw.ImageDraw, x: float, baseline: float, text: str, size: int, fill: Colour) -> None:
    """Draw a printable text, its left end at `x`."""
    for part, font in _runs(text, size):
        draw.text((x, baseline), part, fill=fill, font=font, anchor="ls")
        x += font.getlength(part)


def _runs(text: str, size: int) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
    """Parts of a text with the font for each."""
    part, path = "", _LETTERS[0]
    for index, char in enumerate(text):
        stays = char in (" ", _JOINER) or (index and _continues(text, index) and _has_glyph(path, char))
        other = path if stays else _font_for(char) or path
        if char == " " and path == _EMOJI[0]:  # its blanks are wide
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
def _font_for(char: str) -> str | None:
    """Path of the first font that has a character: those that ship with the package, then those of the system."""
    for path in _EMOJI if ord(char) >= 0x1F000 else _LETTERS:
        if _has_glyph(path, char):
            return path
    if unicodedata.category(char) in ("Co", "Cn", "Cs"):  # private, unassigned, half of a pair
        return None
    block = ord(char) >> 7  # one search for each script: there may be thousands of fonts
    if block not in _found_for:
        _found_for[block] = next((path for path in _system_fonts() if _has_glyph(path, char)), None)
    found = _found_for[block]
    return found if found and _has_glyph(found, char) else None


@lru_cache(maxsize=65536)
def _has_glyph(path: str, char: str) -> bool:
    """Whether a font draws a character otherwise than one that no font has."""
    try:
        font = ImageFont.truetype(path, _PROBE, layout_engine=ImageFont.Layout.BASIC)
        glyph = _drawn(font, char)
    except (OSError, ValueError):  # not a scalable font; half of a surrogate pair
        return False
    return any(glyph) and glyph != _drawn(font, _MISSING)


def _drawn(font: ImageFont.FreeTypeFont, char: str) -> bytes:
    page = Image.new("L", (3 * _PROBE, 3 * _PROBE))
    ImageDraw.Draw(page).text((_PROBE, 2 * _PROBE), char, fill=255, font=font, anchor="ls")
    return page.tobytes()


@cache
def _system_fonts() -> list[str]:
    home = Path.home()
    folders = {
        "win32": [Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts"), home / "AppData/Local/Microsoft/Windows/Fonts"],
        "darwin": [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"],
    }.get(sys.platform, [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts", home / ".fonts"])
    found = sorted(str(path) for folder in folders for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf", ".ttc"))
    return [path for path in found if "lastresort" not in path.lower()]  # it draws a box for every character
