"""Write docs/towers.md: which image towers of open_clip can be read densely, and by which strategies.

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

DOCUMENT = CHECKOUT / "docs" / "towers.md"
HEAD = """# Image towers

Which of open_clip's architectures MaskCLIP can read, by name: `model.architecture=NAME model.pretrained=TAG`
(`python -c "import open_clip; print(open_clip.list_pretrained())"` lists the tags). Every architecture was built without
memory on the meta device and read once; that a reading is right is tested on small towers of each kind, against the
library's own forward pass (`tests/clip/test_anatomy.py`).

Towers with a class token, or with the mean of the patches, have all strategies. Where attention with a learned query pools
the tokens (SigLIP, PE, CoCa) that pooling is the last attention layer, and its values are read, as those of CLIP's ResNets are;
patches ask no query there, so that only `maskclip` and `value` have a meaning. What has no attention layer at the end has no
reading, and says so.

Architectures with a text tower of Hugging Face need `pip install transformers`, on the machine that embeds the words at least
(`python src/embed_text.py`).

Made by `python scripts/list_towers.py` with open_clip {open_clip} and timm {timm}.

| architecture | image tower | patch | strategies |
|---|---|--:|---|
"""
ALL = "all"


class Row(NamedTuple):
    """What the table says of an architecture."""

    kind: str
    patch: str
    strategies: str


def survey(architecture: str) -> Row:
    """Build an architecture's image tower on the meta device and read it."""
    with torch.device("meta"), torch.no_grad():
        tower = create(architecture, with_text=False).visual
        kind = f"timm {type(tower.trunk).__name__}" if hasattr(tower, "trunk") else type(tower).__name__
        try:
            clip = DenseCLIP(tower).to("meta")
        except InputError:
            return Row(kind, "", "none")
        features, _ = clip(torch.empty(1, 3, 224, 224), with_keys=True)
        covered = clip.covered_size(224, 224)
    strategies = clip.reader.strategies
    return Row(kind, str(round(covered[0] / features.shape[2])), ALL if len(strategies) > 5 else ", ".join(strategies))


def document() -> str:
    """The whole document: one line for all architectures of which the same is said."""
    groups: dict[Row, list[str]] = defaultdict(list)
    for architecture in sorted(open_clip.list_models(), key=str.lower):
        if not architecture.startswith("maskclip"):
            groups[survey(architecture)].append(architecture)
    ordered = sorted(groups.items(), key=lambda item: (item[0].strategies == "none", item[0].strategies != ALL, item[0]))
    lines = [f"| {', '.join(names)} | {row.kind} | {row.patch} | {row.strategies} |" for row, names in ordered]
    return HEAD.format(open_clip=version("open_clip_torch"), timm=version("timm")) + "\n".join(lines) + "\n"


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(DOCUMENT)


if __name__ == "__main__":
    main()
