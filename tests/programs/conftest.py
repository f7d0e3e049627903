"""A trained student for the tests of the programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.in_process import run
from support.programs import SMALL_STUDENT


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, textures_root: Path) -> Path:
    """The folder of a finished training of two steps with `SMALL_STUDENT`, and what it printed, in stdout.txt. Do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    settings = (f"data.root={textures_root}", "trainer.max_steps=2", "trainer.val_check_interval=2")
    result = run(folder, "train", *SMALL_STUDENT, *settings)
    assert result.returncode == 0, result.stderr
    (folder / "out" / "stdout.txt").write_text(result.stdout)
    return folder / "out"
