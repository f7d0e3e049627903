"""Result cards and tables."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from maskclip import Vocabulary, files
from maskclip.evaluation import cards
from maskclip.evaluation.cards import score_entries, versions
from maskclip.evaluation.scores import scores
from maskclip.evaluation.tables import class_table, table
from maskclip.files import write_json
from maskclip.images.drawing import colourise, legend, overlay, sheet, stack

WORDS = Vocabulary(["cat", "dog", "sky"], unseen=["dog"])


def test_card_entries_are_percentages() -> None:
    entries = score_entries(scores(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), [1]), WORDS)
    assert entries["iou"] == {"cat": 75, "dog": pytest.approx(200 / 3, abs=1e-12), "sky": None}
    assert [entries[key] for key in ("miou", "seen", "unseen")] == pytest.approx([425 / 6, 75, 200 / 3], abs=1e-12)
    assert entries["pixel_accuracy"] == pytest.approx(500 / 6, abs=1e-12)
    assert json.loads(json.dumps(entries)) == entries


def test_tables() -> None:
    rows = [{"method": "CLIP", "miou": 12.346, "seen": None}, {"method": "MaskCLIP", "miou": 45.0, "seen": 50.0}]
    lines = table(rows).splitlines()
    assert lines[0].split() == ["method", "mIoU", "seen"]
    assert lines[2].split() == ["CLIP", "12.35", "-"] and lines[3].split() == ["MaskCLIP", "45.00", "50.00"]
    assert len({len(line) for line in lines}) == 1
    by_class = class_table({"iou": {"cat": 100.0, "dog": 100 / 3, "sky": None}}).splitlines()
    assert by_class == ["IoU of each class", "  cat  100.00", "  dog   33.33", "  sky       -"]
    assert class_table({"iou": {"cat": 10.0, "dog": 30.5}}, ["dog"]).splitlines()[1] == "  dog   30.50  unseen"


def test_json_files_are_replaced_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "card.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["card.json"]


def test_versions_of_packages_that_results_depend_on() -> None:
    assert {"python", "torch", "open_clip_torch", "maskclip"} <= set(versions())


def git(folder: Path, *arguments: str) -> str:
    call = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("place", ["venv/lib/python3/site-packages/maskclip", "src/maskclip"])
def test_the_commit_is_never_that_of_another_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    """A copy of the package inside another git repository, which ignores or tracks it."""
    (tmp_path / place).mkdir(parents=True)
    copy = Path(shutil.copy(files.__file__, tmp_path / place))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "another project")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    spec = importlib.util.spec_from_file_location("copied_files", copy)
    assert spec is not None and spec.loader is not None
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    monkeypatch.setattr(cards, "CHECKOUT", copied.CHECKOUT)
    assert copied.CHECKOUT.is_relative_to(tmp_path) and cards.commit() is None


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_commit_is_that_of_this_checkout() -> None:
    assert (cards.commit() or "").removesuffix("-dirty") == git(ROOT, "rev-parse", "HEAD")


def test_drawing() -> None:
    labels = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    assert colourise(labels, palette).tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]
    image = np.full((4, 4, 3), 100, dtype=np.uint8)
    assert (overlay(image, np.full((4, 4), 255, dtype=np.uint8), palette) == 100).all()
    assert (overlay(image, np.zeros((4, 4), dtype=np.uint8), palette, 0.5) == [177, 50, 50]).all()
    page = sheet([[image, image]], ["image", "two\nlines"], cell=40)
    strip = legend(["a", "b", "c"], palette, page.width)
    assert stack([page, strip]).size == (page.width, page.height + strip.height)
    assert legend(["name"] * 30, palette * 10, 200).height > strip.height
