"""Which activation weights were trained with, GELU or QuickGELU.

The tensors have the same names and shapes for both, so a file of weights with the wrong activation loads without an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import open_clip

SUFFIX = "-quickgelu"
OPENAI_NAMES = {"input_resolution", "context_length", "vocab_size"}
"""Entries of OpenAI's archives, which a state dict extracted from them keeps."""

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HUB_CONFIG = "open_clip_config.json"


def computes_quick_gelu(architecture: str) -> bool:
    """Whether an architecture of open_clip uses QuickGELU."""
    return bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu"))


def counterpart_of(architecture: str) -> str | None:
    """The architecture with the other activation, such as ViT-B-16 for ViT-B-16-quickgelu; None if open_clip has none."""
    counterpart = architecture.removesuffix(SUFFIX) if architecture.endswith(SUFFIX) else architecture + SUFFIX
    return counterpart if counterpart in open_clip.list_models() else None


def trained_with_quick_gelu(path: Path, names: Iterable[str]) -> bool | None:
    """Whether the weights in a file were trained with QuickGELU; None if that is unknown. `names` are its tensors.

    Sources, in this order: entries of OpenAI's archives among the names, the config of a Hugging Face model in the same
    folder, and the SHA-256 of the file in open_clip's list of weights.
    """
    if set(names) >= OPENAI_NAMES:
        return True
    if path.name in HUB_FILES and (path.parent / HUB_CONFIG).is_file():
        return _of_config(path.parent / HUB_CONFIG)
    return published_activations().get(_sha256(path)[:8])


def _of_config(path: Path) -> bool | None:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["model_cfg"].get("quick_gelu"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def published_activations() -> dict[str, bool]:
    """Whether weights in open_clip's list use QuickGELU, by the first 8 digits of their SHA-256, with which the file names end."""
    quick_gelu = {}
    for architecture, tag in open_clip.list_pretrained():
        source = open_clip.get_pretrained_cfg(architecture, tag) or {}
        if match := re.search(r"-([0-9a-f]{8})\.\w+$", source.get("url") or ""):
            quick_gelu[match[1]] = bool(source.get("quick_gelu"))
    return quick_gelu


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
