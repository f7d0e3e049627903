"""Check the demo's table: python scripts/check_demo.py FIRST.json [SECOND.json]

Prints every score that is lower than expected and exits with status 1. Two tables from the same machine must agree to 0.1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

Rows = dict[str, dict[str, float]]


def read(path: str) -> Rows:
    """The rows of a table, by method."""
    return {row["method"]: row for row in json.loads(Path(path).read_text())}


def low_scores(rows: Rows) -> Iterator[str]:
    """Messages about the scores of a table that are lower than expected."""
    clip, teacher = rows["CLIP"], rows["MaskCLIP"]
    free, clean, zero = (rows[f"MaskCLIP+ {name}"] for name in ("annotation-free", "clean labels", "zero-shot"))
    if teacher["miou"] < max(45, 2 * clip["miou"]):
        yield f"MaskCLIP has {teacher['miou']:.2f}, plain CLIP {clip['miou']:.2f}: less than double, or less than 45"
    for name in ("MaskCLIP + KS", "MaskCLIP + PD", "MaskCLIP + PD + KS"):
        if rows[name]["miou"] < teacher["miou"] - 0.05:
            yield f"{name} has {rows[name]['miou']:.2f}, less than MaskCLIP's {teacher['miou']:.2f}"
    if free["miou"] < teacher["miou"] + 3:
        yield f"the annotation-free student has {free['miou']:.2f}, less than 3 points above its teacher's {teacher['miou']:.2f}"
    if clean["miou"] < max(84, free["miou"] + 5):
        yield f"the student of clean labels has {clean['miou']:.2f}, less than 84, or less than 5 above {free['miou']:.2f}"
    if zero["unseen"] <= teacher["unseen"]:
        yield f"the zero-shot student's unseen classes have {zero['unseen']:.2f}, not above the teacher's {teacher['unseen']:.2f}"
    if zero["seen"] < 75:
        yield f"the zero-shot student's seen classes have {zero['seen']:.2f}, less than 75"


def differences(first: Rows, second: Rows) -> Iterator[str]:
    """Messages about the scores of two tables that differ by more than 0.1."""
    for name, row in first.items():
        for key, value in row.items():
            if key != "method" and abs(value - second[name][key]) > 0.1:
                yield f"{name}, {key}: {value:.2f} in one run, {second[name][key]:.2f} in the other"


def main() -> None:
    tables = [read(path) for path in sys.argv[1:]]
    problems = list(low_scores(tables[-1])) + [line for other in tables[1:] for line in differences(tables[0], other)]
    print("\n".join(problems) or "the table of the demo is as expected")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
