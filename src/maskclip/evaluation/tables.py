"""Result cards as tables, in plain text and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {"miou": "mIoU", "seen": "seen", "unseen": "unseen", "harmonic": "harmonic", "pixel_accuracy": "pixel acc"}


def score_cells(rows: Sequence[Mapping[str, Any]], first: str = "method") -> list[list[str]]:
    """A head and a line for each card: the column `first` and those of `COLUMNS` that any card has, with two decimals."""
    keys = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    head = [first, *(COLUMNS[key] for key in keys)]
    return [head] + [[str(row[first]), *("-" if row.get(key) is None else f"{row[key]:.2f}" for key in keys)] for row in rows]


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Cells, the head first, as a table in Markdown."""
    rule = ["---", *["--:"] * (len(cells[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Cells, the head first, as a table in plain text."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]) for line in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def table(rows: Sequence[Mapping[str, Any]], first: str = "method") -> str:
    """A plain-text table of cards: one line each, the columns of `COLUMNS` that any of them has."""
    return aligned(score_cells(rows, first))


def class_table(card: Mapping[str, Any], unseen: Sequence[str] = ()) -> str:
    """A plain-text table of IoU by class, unseen classes marked, best first."""
    entries = sorted(card["iou"].items(), key=lambda item: -1 if item[1] is None else item[1], reverse=True)
    width = max(len(name) for name in card["iou"])
    lines = [
        f"  {name.ljust(width)}  {'     -' if value is None else f'{value:6.2f}'}{'  unseen' if name in unseen else ''}".rstrip()
        for name, value in entries
    ]
    return "\n".join(["IoU by class", *lines])
