"""Result cards as tables, in plain text and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {"miou": "mIoU", "seen": "seen", "unseen": "unseen", "harmonic": "harmonic", "pixel_accuracy": "pixel acc"}
"""Scores of a card in percent, with the headers of their columns."""


def score_cells(cards: Sequence[Mapping[str, Any]], first: str = "method") -> list[list[str]]:
    """The cells of a table: a header and a row per card, with the column `first` and the `COLUMNS` that any card has."""
    keys = [key for key in COLUMNS if any(card.get(key) is not None for card in cards)]
    header = [first, *(COLUMNS[key] for key in keys)]
    return [header] + [[str(card[first]), *("-" if card.get(key) is None else f"{card[key]:.2f}" for key in keys)] for card in cards]


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Cells, with the header first, as a table in Markdown."""
    rule = ["---", *["--:"] * (len(cells[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Cells, with the header first, as a table in plain text."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]) for line in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def table(cards: Sequence[Mapping[str, Any]], first: str = "method") -> str:
    """A table of cards in plain text, see `score_cells`."""
    return aligned(score_cells(cards, first))


def class_table(card: Mapping[str, Any], unseen: Sequence[str] = ()) -> str:
    """A table in plain text of the IoU of each class in percent, best first; unseen classes are marked."""
    entries = sorted(card["iou"].items(), key=lambda item: -1 if item[1] is None else item[1], reverse=True)
    width = max(len(name) for name in card["iou"])
    lines = [
        f"  {name.ljust(width)}  {'     -' if value is None else f'{value:6.2f}'}{'  unseen' if name in unseen else ''}".rstrip()
        for name, value in entries
    ]
    return "\n".join(["IoU of each class", *lines])
