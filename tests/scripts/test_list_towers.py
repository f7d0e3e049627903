"""The table of docs/explanation/towers.md has the strategies of every architecture of open_clip."""

from __future__ import annotations

import open_clip
import pytest
from list_towers import DOCUMENT, HEADING, Row, survey


def documented() -> dict[str, Row]:
    table = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)[2]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line] for line in lines]
    return {name: Row(*cells) for names, *cells in rows for name in names.split(", ")}


DOCUMENTED = documented()
SAMPLE = ("ViT-B-16-quickgelu", "RN50x4", "ViT-B-16-SigLIP2", "EVA02-B-16", "PE-Core-T-16-384", "coca_ViT-B-32", "convnext_tiny")


@pytest.mark.parametrize("architecture", SAMPLE)
def test_a_sample_is_as_documented(architecture: str) -> None:
    assert survey(architecture) == DOCUMENTED[architecture]


@pytest.mark.slow
def test_all_architectures_are_as_documented() -> None:
    names = [name for name in open_clip.list_models() if not name.startswith("maskclip")]
    wrong = {name: survey(name) for name in names if survey(name) != DOCUMENTED.get(name)}
    assert not wrong, "run python scripts/list_towers.py"


def test_the_papers_backbones_work() -> None:
    for name in ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"):
        assert DOCUMENTED[f"{name}-quickgelu"].strategies == "clip, maskclip, value"
    for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"):
        assert DOCUMENTED[f"{name}-quickgelu"].strategies == "all"
