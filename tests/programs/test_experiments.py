"""The experiments of the paper at full size, with random weights, on small releases in the published form."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.programs import call, command, environment

pytestmark = pytest.mark.slow

RANDOM_WEIGHTS = ("teacher.pretrained=null", "teacher.templates=simple", "teacher.cache=null", "student.weights=null")
TWO_STEPS = (
    "debug=quick",
    "trainer=cpu",
    "data.batch_size=2",
    "data.num_workers=0",
    "callbacks.last.every_n_train_steps=1",
    "images_to_save=1",
)


def kill_after_one_step(folder: Path, settings: tuple[str, ...]) -> None:
    """Start a training and kill it when its first checkpoint is written."""
    last = folder / "out" / "checkpoints" / "last.ckpt"
    line = command("train", f"hydra.run.dir={folder}/out", *settings)
    process = subprocess.Popen(line, cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not last.is_file() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert torch.load(last, weights_only=True)["global_step"] == 1


@pytest.mark.parametrize(
    ("experiment", "release", "killed"),
    [
        ("context_zero_shot", "context", True),
        ("voc_zero_shot", "voc", False),
        ("stuff_zero_shot", "coco", False),
        ("context_annotation_free", "context", False),
    ],
)
def test_two_steps_and_an_evaluation(experiment: str, release: str, killed: bool, prepared: Callable[..., Path], tmp_path: Path) -> None:
    settings = (f"experiment={experiment}", *RANDOM_WEIGHTS, *TWO_STEPS, f"paths.data={prepared(release)}")
    if killed:
        kill_after_one_step(tmp_path, settings)
        settings = (*settings, f"resume={tmp_path}/out")
    result = call(tmp_path, "train", *settings)
    assert result.returncode == 0, result.stderr
    assert torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    card = json.loads((tmp_path / "out" / "results.json").read_text())
    assert card["images"] == 2 and card["training"]["steps"] == 2
