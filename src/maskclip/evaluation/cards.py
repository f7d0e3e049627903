"""Result cards: scores together with what they depend on."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from maskclip.evaluation.scores import Scores
from maskclip.files import CHECKOUT
from maskclip.vocabulary import Vocabulary

PACKAGES = ("maskclip", "torch", "open_clip_torch", "pytorch-lightning", "torchmetrics", "segmentation-models-pytorch", "timm", "numpy")


def percent(value: float) -> float | None:
    """A score from 0 to 1 in percent, not rounded; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else 100 * value


def score_entries(result: Scores, vocabulary: Vocabulary) -> dict[str, Any]:
    """The scores of a card by name, in percent and not rounded; `iou` is a mapping of class names.

    `seen`, `unseen` and `harmonic` are None if the vocabulary has no unseen classes. See `Scores` for definitions.
    """
    has_unseen = bool(vocabulary.unseen)
    return {
        "miou": percent(result.miou),
        "iou": {name: percent(value) for name, value in zip(vocabulary.names, result.iou.tolist(), strict=True)},
        "pixel_accuracy": percent(result.pixel_accuracy),
        "seen": percent(result.seen) if has_unseen else None,
        "unseen": percent(result.unseen) if has_unseen else None,
        "harmonic": percent(result.harmonic) if has_unseen else None,
    }


def commit() -> str | None:
    """The git commit of this project, followed by "-dirty" if tracked files were changed; None outside of a checkout.

    An installed copy inside another repository has no commit: git would report that of the other repository.
    """
    try:
        git = ["git", "-C", str(CHECKOUT)]
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True).stdout.strip()
        if Path(top).resolve() != CHECKOUT or 'name = "maskclip"' not in (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"):
            return None
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed.strip() else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    return f"{models[0].split(':', 1)[1].strip() if models else platform.processor()} ({os.cpu_count()} cores)"
