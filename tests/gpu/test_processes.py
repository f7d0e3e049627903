"""The programs on GPUs, in processes of their own: on one GPU as on the CPU, on two as on one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.devices import SLOW_ON_CPU, cuda, slow_cpu
from support.programs import SMALL_IMAGES, SMALL_STUDENT, TINY, call, draw_photos

TRAINER = {"cpu": "trainer=cpu", "cuda": "trainer=gpu"}
TWO = [slow_cpu(("trainer=cpu",), ("trainer=ddp_cpu",)), cuda(("trainer=gpu",), ("trainer=ddp", "trainer.devices=2"), gpus=2)]


@pytest.mark.parametrize("device", SLOW_ON_CPU)
def test_segment(tmp_path: Path, device: str) -> None:
    draw_photos(tmp_path / "photos", 5)
    for name, trainer in (("reference", "trainer=cpu"), ("device", TRAINER[device])):
        result = call(tmp_path, "segment", *SMALL_IMAGES, trainer, "input=photos", f"output={tmp_path}/{name}")
        assert result.returncode == 0, result.stderr
    masks = sorted((tmp_path / "reference" / "masks").iterdir())
    same = [np.asarray(Image.open(mask)) == np.asarray(Image.open(tmp_path / "device" / "masks" / mask.name)) for mask in masks]
    assert len(same) == 5 and np.mean(same) >= 0.999


@pytest.mark.parametrize(("one", "two"), TWO)
def test_evaluation_on_two(tmp_path: Path, textures_root: Path, one: tuple[str, ...], two: tuple[str, ...]) -> None:
    """Every image is counted once, though 5 images do not divide by 2."""
    counts = []
    for name, trainer in (("one", one), ("two", two)):
        result = call(tmp_path, "eval", *TINY, *trainer, f"data.root={textures_root}", f"paths.output={tmp_path}/{name}")
        assert result.returncode == 0, result.stderr
        counts.append(np.load(tmp_path / name / "confusion.npy"))
    assert counts[0].sum() == counts[1].sum()
    assert abs(counts[0] - counts[1]).sum() <= 0.002 * counts[0].sum()
    assert json.loads((tmp_path / "two" / "results.json").read_text())["processes"] == 2


@pytest.mark.parametrize(("one", "two"), TWO)
def test_training_on_two(tmp_path: Path, textures_root: Path, one: tuple[str, ...], two: tuple[str, ...]) -> None:
    """Statistics of BatchNorm are shared: the stored student scores as the run did."""
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=3", "trainer.val_check_interval=1")
    result = call(tmp_path, "train", *settings, *two, "data.batch_size=4", f"paths.output={tmp_path}/two")
    assert result.returncode == 0, result.stderr
    checkpoint = f"model.checkpoint={tmp_path}/two/checkpoints/last.ckpt"
    again = call(tmp_path, "eval", "model=student", checkpoint, "data=textures", *one, f"data.root={textures_root}")
    assert again.returncode == 0, again.stderr
    trained, alone = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("two", "out"))
    assert trained["weights_sha256"] == alone["weights_sha256"] and trained["processes"] == 2
    assert trained["miou"] == pytest.approx(alone["miou"], abs=0.1)
