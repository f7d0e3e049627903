"""Whole CLIP models from open_clip: by name of architecture and weights, or with weights from a file."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
from open_clip.model import CLIP
from torch import nn

from maskclip.clip import tiny
from maskclip.errors import InputError


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip, which tells on the root logger what it did not load: the caller loads it, or says so in an error."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)


def _missing(architecture: str, pretrained: str) -> InputError:
    return InputError(
        f"the weights {pretrained!r} of {architecture} are not on this machine and could not be downloaded "
        "now. Connect once so that open_clip can fetch them, or put a checkpoint on this machine and say "
        "model.pretrained=/path/to/file (teacher.pretrained in training); the model that ships with the project needs "
        "no download: model=maskclip_tiny"
    )


def load_clip(architecture: str, pretrained: str | None) -> CLIP:
    """A CLIP in eval mode on the CPU, float32, with `visual`, `encode_text` and `logit_scale`.

    `architecture` is a name of `open_clip.list_models()` or "maskclip-tiny"; `pretrained` a tag of
    `open_clip.list_pretrained_tags_by_model`, a file, or None for random weights (tests, dry runs).
    Raises `InputError` if the architecture is unknown, the weights are out of reach, or they do not fit.
    """
    tiny.register()
    if architecture not in open_clip.list_models():
        raise InputError(
            f"unknown CLIP architecture {architecture!r}; open_clip.list_models() names them, such as ViT-B-16-quickgelu or RN50-quickgelu"
        )
    is_file = pretrained is not None and Path(pretrained).is_file()
    if architecture == tiny.ARCHITECTURE and pretrained == "textures":
        with _quiet():
            model = open_clip.create_model(architecture)
        model.load_state_dict(tiny.load_weights())
        return model.eval()
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained is not None and not is_file and pretrained not in tags:
        raise InputError(
            f"{architecture} has no weights {pretrained!r}: no such file, and open_clip's tags are {', '.join(tags) or 'none'}"
        )
    try:
        with _quiet():
            model = open_clip.create_model(architecture, pretrained=pretrained, weights_only=True)
    except OSError as cause:  # no network, hub offline, broken download
        raise _missing(architecture, str(pretrained)) from cause
    except pickle.UnpicklingError as cause:
        raise InputError(f"{pretrained} is not a checkpoint that can be read safely: give a state dict or safetensors") from cause
    except Exception as cause:
        if is_file:
            raise InputError(f"the weights in {pretrained} do not fit {architecture}: {str(cause).splitlines()[0]}") from cause
        if "download" in str(cause).lower() or "connect" in str(cause).lower():
            raise _missing(architecture, str(pretrained)) from cause
        raise
    return model.eval()


def weights_sha256(model: nn.Module) -> str:
    """A fingerprint of all weights: SHA-256 over names and float32 bytes in order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy())
    return digest.hexdigest()


def cache_root() -> Path:
    """Where text embeddings are kept: $MASKCLIP_CACHE, else ~/.cache/maskclip."""
    return Path(os.environ.get("MASKCLIP_CACHE", Path.home() / ".cache" / "maskclip"))
