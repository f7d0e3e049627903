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


@pytest.mark.parametrize(
    ("experiment", "release"),
    [("context_zero_shot", "context"), ("voc_zero_shot", "voc"), ("stuff_zero_shot", "coco"), ("context_annotation_free", "context")],
)
def test_two_steps_of_everything(experiment: str, release: str, prepared: Callable[..., Path], tmp_path: Path) -> None:
    """Two steps, a validation after each, killed behind the first checkpoint and resumed from it."""
    settings = (f"experiment={experiment}", *RANDOM_WEIGHTS, *TWO_STEPS, f"paths.data={prepared(release)}")
    last = tmp_path / "out" / "checkpoints" / "last.ckpt"
    run = subprocess.Popen(
        command("train", f"hydra.run.dir={tmp_path}/out", *settings),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not last.is_file() and run.poll() is None:
        time.sleep(0.02)
    run.kill()
    run.wait()
    assert torch.load(last, weights_only=True)["global_step"] == 1
    result = call(tmp_path, "train", *settings, f"resume={tmp_path}/out")
    assert result.returncode == 0, result.stderr
    assert torch.load(last, weights_only=True)["global_step"] == 2
    card = json.loads((tmp_path / "out" / "results.json").read_text())
    assert card["images"] == 2 and card["training"]["steps"] == 2
    print(experiment, {key: card["training"][key] for key in ("seconds", "images_per_second", "peak_memory_gb")})
