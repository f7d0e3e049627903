"""The result files of an evaluation: scores and the confusion matrix that they are computed from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.configs import composed, with_values

from maskclip import Protocol, Vocabulary
from maskclip.programs.config import words_of
from maskclip.programs.evaluating import origin, write_results


def is_consistent(folder: Path) -> bool:
    """Whether the card has the fingerprint of the matrix."""
    card = json.loads((folder / "results.json").read_text())
    return card["confusion_sha256"] == hashlib.sha256((folder / "confusion.npy").read_bytes()).hexdigest()


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_kill_leaves_no_new_scores_with_an_old_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int) -> None:
    """Killed after 0, 1 or 2 of the two files were renamed."""
    old, new = np.eye(2, dtype=np.int64), 2 * np.eye(2, dtype=np.int64)
    write_results(tmp_path, {"miou": 1.0}, old)
    real, done = Path.replace, iter(range(renamed))

    def replace(path: Path, target: Path) -> Path:
        if next(done, None) is None:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        if renamed < 2:
            with pytest.raises(KeyboardInterrupt):
                write_results(tmp_path, {"miou": 2.0}, new)
        else:
            write_results(tmp_path, {"miou": 2.0}, new)
    assert json.loads((tmp_path / "results.json").read_text())["miou"] == (2.0 if renamed == 2 else 1.0)
    assert np.array_equal(np.load(tmp_path / "confusion.npy"), new if renamed else old)
    assert is_consistent(tmp_path) == (renamed != 1)


@pytest.mark.parametrize(("words", "of_background"), [("own", []), ("clearclip", ["background"])])
def test_a_card_has_the_words_of_each_class(words: str, of_background: list[str]) -> None:
    cfg = with_values(composed("eval", "data=voc21", f"words={words}"), paths__output="out")
    model: Any = SimpleNamespace(weights_sha256="", provenance={})
    data: Any = SimpleNamespace(vocabulary=Vocabulary(**words_of(cfg)))
    card = origin(cfg, model, data, Protocol())
    by_class = dict(zip(card["classes"], card["words"], strict=True))
    assert by_class["background"] == of_background and by_class["aeroplane"] == ["airplane" if words == "own" else "aeroplane"]
    assert json.loads(json.dumps(card["words"])) == card["words"]
