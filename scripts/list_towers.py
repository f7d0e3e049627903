"""Write the table of docs/explanation/towers.md: the image towers of open_clip with dense features, and their strategies.

python scripts/list_towers.py
"""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from importlib.metadata import version
from typing import NamedTuple

import checkout  # noqa: F401 - puts src on the path
import open_clip
import torch

from maskclip import DenseCLIP, InputError
from maskclip.clip.loading import create
from maskclip.files import CHECKOUT

DOCUMENT = CHECKOUT / "docs" / "explanation" / "towers.md"
HEADING = "## All architectures\n"
TABLE = (
    HEADING
    + """
Made by `python scripts/list_towers.py` with open_clip {open_clip} and timm {timm}.

| architecture | image tower | patch | strategies |
|---|---|--:|---|
"""
)
ALL = "all"


class Row(NamedTuple):
    """A row of the table: the properties of an architecture."""

    kind: str
    patch: str
    strategies: str


def survey(architecture: str) -> Row:
    """Build an architecture's image tower on the meta device and return its row."""
    with torch.device("meta"), torch.no_grad():
        tower = create(architecture, with_text=False).visual
        kind = f"timm {type(tower.trunk).__name__}" if hasattr(tower, "trunk") else type(tower).__name__
        try:
            clip = DenseCLIP(tower).to("meta")
        except InputError:
            return Row(kind, "", "none")
        features, _ = clip(torch.empty(1, 3, 224, 224), with_keys=True)
        covered = clip.covered_size(224, 224)
    strategies = clip.strategies
    return Row(kind, str(round(covered[0] / features.shape[2])), ALL if len(strategies) > 5 else ", ".join(strategies))


def document() -> str:
    """The page with a new table: one line for all architectures with the same properties."""
    groups: dict[Row, list[str]] = defaultdict(list)
    for architecture in sorted(open_clip.list_models(), key=str.lower):
        if not architecture.startswith("maskclip"):
            groups[survey(architecture)].append(architecture)
    ordered = sorted(groups.items(), key=lambda item: (item[0].strategies == "none", item[0].strategies != ALL, item[0]))
    lines = [f"| {', '.join(names)} | {row.kind} | {row.patch} | {row.strategies} |" for row, names in ordered]
    head = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)[0]
    return head + TABLE.format(open_clip=version("open_clip_torch"), timm=version("timm")) + "\n".join(lines) + "\n"


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(DOCUMENT)


if __name__ == "__main__":
    main()
