"""`src/train.py` with `task=any_resolution`: the CLIP that it writes, the command that it prints, and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.in_process import run
from support.programs import expect_one_sentence

from maskclip import MaskCLIP
from maskclip.clip import tiny as shipped
from maskclip.clip.loading import load_clip
from maskclip.clip.strategies import STRATEGIES

SMALL = (
    "experiment=textures_any_resolution",
    "trainer=cpu",
    "data.num_workers=0",
    "data.batch_size=2",
    "task.window=32",
    "task.stride=16",
    "task.sizes=[48,64]",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
    "callbacks.last.every_n_train_steps=1",
    "images_to_save=0",
)


@pytest.mark.slow
def test_the_result_is_a_clip_with_the_text_tower_of_the_teacher(tmp_path: Path, textures_root: Path) -> None:
    result = run(tmp_path, "train", *SMALL, f"data.root={textures_root}", "trainer.max_steps=2")
    assert result.returncode == 0, result.stderr
    assert "eval mode" not in result.stderr and "mIoU" in result.stdout
    weights = tmp_path / "out" / "clip" / "open_clip_model.safetensors"
    assert f"model=maskclip_textures model.pretrained={weights}" in result.stdout
    assert {"train/loss", "train/lr", "val/cosine"} <= set((tmp_path / "out" / "metrics.csv").read_text().splitlines()[0].split(","))
    loaded, original = load_clip(shipped.ARCHITECTURE, str(weights)).state_dict(), shipped.load_weights()
    assert set(loaded) == set(original)
    assert all(torch.equal(loaded[name], value) for name, value in original.items() if not name.startswith("visual."))
    checkpoint = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)
    prefix = "student.tower.adapter.tower."
    student = {name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)}
    assert student and all(torch.equal(loaded[f"visual.{name}"], value) for name, value in student.items())
    changed = [name for name, value in original.items() if not torch.equal(loaded[name], value)]
    assert changed and all("visual.transformer.resblocks" in name for name in changed)
    for strategy in set(STRATEGIES) - {"proxyclip"}:
        model = MaskCLIP.build(["zebra", "sky"], shipped.ARCHITECTURE, str(weights), strategy, cache=None)
        assert model(torch.rand(1, 3, 40, 64)).isfinite().all()


@pytest.mark.slow
def test_a_run_without_masks_is_resumed(tmp_path: Path, textures_root: Path) -> None:
    settings = (*SMALL, f"data.root={textures_root}", "data.masks=null")
    assert run(tmp_path, "train", *settings, "trainer.max_steps=1").returncode == 0
    resumed = run(tmp_path, "train", *settings, "trainer.max_steps=2", f"resume={tmp_path}/out")
    assert resumed.returncode == 0 and "Resuming at step 1" in resumed.stdout, resumed.stderr
    assert "mIoU" not in resumed.stdout and "model.pretrained=" in resumed.stdout
    other = run(tmp_path, "train", *settings, "trainer.max_steps=2", f"resume={tmp_path}/out", "task.stride=8")
    expect_one_sentence(other, "trained with other settings (task.stride was 16, is 8)")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.labels=all", "data.labels=all: give none"),
        ("data.truth=true", "data.truth=True: give false"),
        ("teacher.pretrained=null", "teacher.pretrained=null: give a pretrained tag"),
        ("compile=true", "compile=True: give false"),
        ("data.augmentation.crop=56", "data.augmentation.crop=56: give at least the largest of task.sizes, 64 pixels"),
        ("task.blocks=3", "task.blocks=3: give a number of blocks, at most 2"),
    ],
)
def test_settings_that_do_not_fit_the_task(override: str, message: str, tmp_path: Path, textures_root: Path) -> None:
    expect_one_sentence(run(tmp_path, "train", *SMALL, f"data.root={textures_root}", "trainer.max_steps=1", override), message)
