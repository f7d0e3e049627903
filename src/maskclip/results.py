"""Result cards and tables: a number together with everything that made it."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from maskclip.metrics import Scores
from maskclip.vocabulary import Vocabulary

PACKAGES = ("torch", "open_clip_torch", "pytorch-lightning", "torchmetrics", "segmentation-models-pytorch", "timm", "numpy")
PROJECT = Path(__file__).resolve().parents[2]
COLUMNS = {"miou": "mIoU", "seen": "seen", "unseen": "unseen", "harmonic": "harmonic", "pixel_accuracy": "pixel acc"}


def percent(value: float) -> float | None:
    """A score in 0..1 as a percentage, not rounded; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else 100 * value


def score_entries(result: Scores, vocabulary: Vocabulary) -> dict[str, Any]:
    """The scores of a card in percent, in full precision; seen, unseen and harmonic only where the vocabulary has unseen classes."""
    split = bool(vocabulary.unseen)
    return {
        "miou": percent(result.miou),
        "iou": {name: percent(value) for name, value in zip(vocabulary.names, result.iou.tolist(), strict=True)},
        "pixel_accuracy": percent(result.pixel_accuracy),
        "seen": percent(result.seen) if split else None,
        "unseen": percent(result.unseen) if split else None,
        "harmonic": percent(result.harmonic) if split else None,
    }


def commit() -> str | None:
    """The git commit of the project, with "-dirty" if files differ from it; None outside a checkout."""
    try:
        git = ["git", "-C", str(PROJECT)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed.strip() else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a number depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """What computed: the card's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    return f"{models[0].split(':', 1)[1].strip() if models else platform.processor()} ({os.cpu_count()} cores)"


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
