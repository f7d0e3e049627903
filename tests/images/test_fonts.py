"""Names in any script in legends and sheets, without boxes and without clipped text."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskclip.images import fonts
from maskclip.images.drawing import MARGIN, PAPER, legend, sheet

SHIPPED = [str(Path(fonts.__file__).parent.parent / "assets" / "fonts" / name) for name in fonts.SHIPPED]
PALETTE = tuple((i, 2 * i, 3 * i) for i in range(80))
SCRIPTS = {
    "latin": "äßłőč",
    "greek": "γάτ",
    "cyrillic": "кшжя",
    "han": "猫犬貓狗",
    "kana": "ねこイヌ",
    "hangul": "고양이",
    "emoji": "🐱🧿🦖👍",
    "rtl": "חקסو",
}


def pixels(name: str) -> bytes:
    return np.asarray(legend([name], PALETTE, 100))[:, 32:].tobytes()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_character_has_its_own_glyph(script: str) -> None:
    """The boxes of missing glyphs are all equal."""
    drawn = {char: pixels(char) for char in SCRIPTS[script]}
    assert len(set(drawn.values())) == len(drawn)
    assert all(fonts.printable(char) == char for char in drawn)


def test_a_character_without_a_font_is_written_as_its_code_point() -> None:
    assert fonts.printable("a\ue123b") == "a U+E123 b"
    assert fonts.printable("a\udcff") == "a U+DCFF"  # a byte of a file name that is not UTF-8
    assert pixels("\ue123") == pixels("U+E123")
    assert fonts.first_font("ह", SHIPPED) is None


def test_the_first_font_that_has_a_character() -> None:
    letters, han, _ = SHIPPED
    assert fonts.first_font("ծ", ["/nowhere/missing.ttf", han, letters]) == letters
    assert fonts.first_font("猫", [letters, han]) == han
    assert all(fonts.font_for(char) in SHIPPED for char in "ж猫🐱")


@pytest.mark.skipif(sys.platform != "linux", reason="another folder of fonts")
def test_fonts_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".fonts").mkdir()
    (tmp_path / ".fonts" / "letters.ttf").write_bytes(Path(SHIPPED[0]).read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    fonts.system_fonts.cache_clear()
    assert str(tmp_path / ".fonts" / "letters.ttf") in fonts.system_fonts()
    fonts.system_fonts.cache_clear()


def test_invisible_characters_are_removed() -> None:
    assert fonts.printable(" tab\there\nnew\x00 ") == "tab here new"
    assert fonts.printable("a\u0308") == "ä"
    assert fonts.printable("❤\ufe0f 1\ufe0f\u20e3 so\u00adft") == "❤ 1 soft"
    assert pixels("a\u0308") == pixels("ä")


LONG = "a red brick wall behind a bicycle that leans on a lamp post " * 4
NAMES = ["cat", LONG, "猫" * 90, "x" * 150, "🐱🧿 " * 30, "", "кошка и собака"]


@pytest.mark.parametrize("width", [40, 100, 640])
def test_long_names_are_wrapped_and_not_clipped(width: int) -> None:
    for name in NAMES:
        text = fonts.printable(name)
        lines = fonts.wrap(text, 16, 64)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert all(fonts.length(line, 16) <= 64 for line in lines)
    strip = legend(NAMES, PALETTE, width)
    ink = np.asarray(strip) != PAPER
    assert strip.width == max(width, 104) and not ink[:, -1].any() and not ink[-1].any()
    assert strip.height > legend(NAMES[:1], PALETTE, width).height
    for name in NAMES:
        alone, wide = (np.asarray(legend([name], PALETTE, side)) for side in (width, 5000))
        dark = [(page[:, 2 * MARGIN + 16 :] < 128).sum() for page in (alone, wide)]
        assert dark[0] == pytest.approx(dark[1], rel=0.1)


def test_combining_marks_and_joined_emoji_stay_with_their_letter() -> None:
    text = "x\u0323" * 40
    assert all(line[0] == "x" for line in fonts.wrap(fonts.printable(text), 16, 64))
    family = fonts.printable("👨\u200d👩\u200d👧" * 9)
    assert all(unicodedata.category(line[0]) == "So" and not line.endswith("\u200d") for line in fonts.wrap(family, 16, 64))


def test_titles_of_sheets_are_wrapped() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    plain, titled = sheet([[image] * 2], ["image", "labels"], 60), sheet([[image] * 2], ["image", "labels 猫 of a long title"], 60)
    assert titled.width == plain.width and titled.height > plain.height
    gap = np.asarray(titled)[: titled.height - 60 - MARGIN, MARGIN + 60 : 2 * MARGIN + 60]
    assert (gap == 255).all()


def test_fonts_are_small_and_have_their_licences() -> None:
    folder = Path(fonts.__file__).parent.parent / "assets" / "fonts"
    files = sorted(folder.glob("*.ttf"))
    assert {str(path) for path in files} == set(SHIPPED)
    assert sum(path.stat().st_size for path in files) < 6e6
    for path in files:
        assert (folder / f"LICENSE-{path.stem.split('-')[0]}.txt").stat().st_size > 1000
        assert path.name in (folder / "README.md").read_text()
    assert isinstance(legend(["a"], PALETTE, 50), Image.Image)
