from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maskclip import Vocabulary
from maskclip.files import write_json
from maskclip.metrics import scores
from maskclip.pictures import colourise, legend, overlay, sheet, stack
from maskclip.results import class_table, score_entries, table, versions

WORDS = Vocabulary(["cat", "dog", "sky"], unseen=["dog"])


def test_card_entries_are_percentages_by_name() -> None:
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
    assert by_class == ["IoU by class", "  cat  100.00", "  dog   33.33", "  sky       -"]
    assert class_table({"iou": {"cat": 10.0, "dog": 30.5}}, ["dog"]).splitlines()[1] == "  dog   30.50  unseen"


def test_json_replaces_the_whole_file_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "card.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["card.json"]


def test_versions_name_what_numbers_depend_on() -> None:
    assert {"python", "torch", "open_clip_torch"} <= set(versions())


def test_pictures() -> None:
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
