"""GELU or QuickGELU: the names of weights are the same for both, so a file has to be asked in other ways."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import open_clip

SUFFIX = "-quickgelu"
OPENAI_NAMES = {"input_resolution", "context_length", "vocab_size"}
"""Entries of OpenAI's archives that a state dict taken from them still has."""

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HUB_CONFIG = "open_clip_config.json"


def computes_quick_gelu(architecture: str) -> bool:
    """Whether the towers of an architecture compute QuickGELU."""
    return bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu"))


def twin_of(architecture: str) -> str | None:
    """The architecture that differs in the activation alone, such as ViT-B-16 of ViT-B-16-quickgelu; None if there is none."""
    twin = architecture.removesuffix(SUFFIX) if architecture.endswith(SUFFIX) else architecture + SUFFIX
    return twin if twin in open_clip.list_models() else None


def trained_with_quick_gelu(path: Path, names: Iterable[str]) -> bool | None:
    """Whether the weights in a file, with tensors of these names, were trained with QuickGELU; None where nothing tells.

    In this order: entries of OpenAI's archives, the config of a model from Hugging Face's hub in the same folder, and the
    SHA-256 that open_clip's list of weights states for the file.
    """
    if set(names) >= OPENAI_NAMES:
        return True
    if path.name in HUB_FILES and (path.parent / HUB_CONFIG).is_file():
        return _of_config(path.parent / HUB_CONFIG)
    return _published().get(_sha256(path)[:8])


def _of_config(path: Path) -> bool | None:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["model_cfg"].get("quick_gelu"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _published() -> dict[str, bool]:
    """The first 8 digits of the SHA-256 of files in open_clip's list, which end their names: trained with QuickGELU or not."""
    known = {}
    for architecture, tag in open_clip.list_pretrained():
        source = open_clip.get_pretrained_cfg(architecture, tag) or {}
        if match := re.search(r"-([0-9a-f]{8})\.\w+$", source.get("url") or ""):
            known[match[1]] = bool(source.get("quick_gelu"))
    return known


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
