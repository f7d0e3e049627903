"""The package loads neither Hydra nor Lightning, and a student needs no CLIP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT

import maskclip
from maskclip import Student


def test_every_public_name_is_importable() -> None:
    assert all(getattr(maskclip, name).__module__.startswith("maskclip.") for name in maskclip.__all__)


def test_importing_the_package_loads_no_framework() -> None:
    frameworks = ("hydra", "omegaconf", "pytorch_lightning", "albumentations")
    code = f"import sys, maskclip; print(*[m for m in {frameworks} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src", check=True)
    assert result.stdout.split() == []


def test_a_student_loads_without_frameworks_and_open_clip(tmp_path: Path) -> None:
    """From an exported folder to labels, without Hydra, Lightning, open_clip and their dependencies."""
    model = Student({"names": ["cat", "sky"]}, 8, "fpn", "resnet18", None, decoder_pyramid_channels=8, encoder_depth=4)
    model.save(tmp_path / "student")
    code = """
import sys
for name in ("hydra", "omegaconf", "pytorch_lightning", "open_clip", "albumentations", "torchmetrics", "wandb"):
    sys.modules[name] = None
from PIL import Image
from maskclip import load_student
labels = load_student(sys.argv[1]).segment(Image.new("RGB", (50, 33)))
print(labels.shape, labels.max() < 2)
"""
    call = [sys.executable, "-c", code, str(tmp_path / "student")]
    result = subprocess.run(call, capture_output=True, text=True, cwd=ROOT / "src", check=True)
    assert result.stdout.split() == ["(33,", "50)", "True"]
