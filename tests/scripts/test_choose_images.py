"""The label maps to correct are those of the lowest mean confidence."""

from __future__ import annotations

from pathlib import Path

import choose_images
import numpy as np
import pytest
from PIL import Image

from maskclip import InputError


def write(path: Path, value: int, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5), value, dtype=dtype)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, confidence in enumerate((50000, 20000, 60000, 30000)):
        write(tmp_path / "labels/masks/a" / f"{number}.jpg.png", number)
        write(tmp_path / "labels/confidence/a" / f"{number}.jpg.png", confidence, np.uint16)
        write(tmp_path / "truth" / f"{number}.png", 10 + number)
    return tmp_path / "labels"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["choose_images.py", *map(str, arguments)])
    choose_images.main()


def copied(folder: Path) -> dict[str, int]:
    return {path.name: int(np.asarray(Image.open(path))[0, 0]) for path in sorted(folder.rglob("*.png"))}


def test_the_least_confident_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, folder, tmp_path / "copies", "--count", 2)
    assert copied(tmp_path / "copies") == {"1.jpg.png": 1, "3.jpg.png": 3}
    run(monkeypatch, folder, tmp_path / "simulated", "--count", 3, "--truth", tmp_path / "truth")
    assert copied(tmp_path / "simulated") == {"0.jpg.png": 10, "1.jpg.png": 11, "3.jpg.png": 13}
    with pytest.raises(InputError, match="exists and may be corrected already"):
        run(monkeypatch, folder, tmp_path / "copies", "--count", 1)


def test_a_random_choice_depends_on_the_seed_only(folder: Path) -> None:
    orders = {tuple(choose_images.least_confident(folder, seed)) for seed in (0, 0, 1, 2, 3)}
    assert 1 < len(orders) < 5 and all(len(set(order)) == 4 for order in orders)


def test_missing_files_are_errors(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no label maps in"):
        run(monkeypatch, tmp_path / "truth", tmp_path / "copies")
    with pytest.raises(InputError, match="no mask"):
        run(monkeypatch, folder, tmp_path / "copies", "--truth", tmp_path / "absent")
    (folder / "confidence/a/2.jpg.png").unlink()
    with pytest.raises(InputError, match="no confidence"):
        run(monkeypatch, folder, tmp_path / "copies")
    assert not (tmp_path / "copies").exists()
