"""Imports point down only: the package itself loads neither Hydra nor Lightning."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT


def test_importing_the_package_loads_no_framework() -> None:
    frameworks = ("hydra", "omegaconf", "pytorch_lightning", "albumentations")
    code = f"import sys, maskclip; print(*[m for m in {frameworks} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src", check=True)
    assert result.stdout.split() == []
