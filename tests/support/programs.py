"""Run the programs in processes of their own, as users do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import ROOT
from PIL import Image

TINY = ("model=maskclip_textures", "data=textures", "trainer=cpu", "data.num_workers=0")
SMALL_STUDENT = (
    "experiment=textures_zero_shot",
    "trainer=cpu",
    "data.num_workers=0",
    "data.batch_size=2",
    "data.augmentation.crop=64",
    "student.decoder_channels=16",
    "callbacks.last.every_n_train_steps=1",
    "images_to_save=0",
)

SMALL_IMAGES = ("model=maskclip_textures", "classes=textures", "protocol.short_side=48", "trainer=cpu")


def command(program: str, *overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "src" / f"{program}.py"), *overrides]


def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"MASKCLIP_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}


def call(tmp_path: Path, program: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run a program with `tmp_path` as working directory. Outputs, caches and weights go below it."""
    return subprocess.run(
        command(program, f"hydra.run.dir={tmp_path}/out", *overrides),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path),
        timeout=900,
    )


def expect_one_sentence(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Check that the program stopped with status 2 and one line "error: ..." that contains all `parts`, without a traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in line


def draw_photos(folder: Path, count: int) -> None:
    """Write images of 64 x 48 smooth random colours: 000.png, 001.png and so on."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
