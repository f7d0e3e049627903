"""Load complete CLIP models of open_clip, with weights by name or from a file."""

from __future__ import annotations

import logging
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, convert_to_custom_text_state_dict

from maskclip.clip import tiny
from maskclip.clip.activation import computes_quick_gelu, counterpart_of, trained_with_quick_gelu
from maskclip.clip.weights import State, is_torchscript, read_state_dict, read_tensors, weights_among
from maskclip.errors import InputError
from maskclip.fingerprint import weights_sha256
from maskclip.process_wide import SettingOverride


def _levels() -> tuple[int, ...]:
    return tuple(logger.level for logger in LOGGERS)


def _set_levels(levels: tuple[int, ...]) -> None:
    for logger, level in zip(LOGGERS, levels, strict=True):
        logger.setLevel(level)


LOGGERS = (logging.getLogger(), logging.getLogger("huggingface_hub"))

QUIET: SettingOverride[tuple[int, ...]] = SettingOverride(_levels, _set_levels, (logging.CRITICAL, logging.CRITICAL))
"""Silences open_clip's warnings on the root logger about weights that it did not load; `load_clip` loads them or raises."""


def _missing(architecture: str, pretrained: str) -> InputError:
    source = open_clip.get_pretrained_cfg(architecture, pretrained) or {}
    url = f"https://huggingface.co/{source['hf_hub'].rstrip('/')}" if source.get("hf_hub") else source.get("url", "")
    return InputError(
        f"the weights {pretrained!r} of {architecture} are not on this machine and could not be downloaded. Connect to the internet "
        f"once, or download them elsewhere from {url} and pass the file: model.pretrained=/path/to/file "
        "(teacher.pretrained=... in training). If they are in a copied cache of Hugging Face, set HF_HUB_OFFLINE=1 "
        "(docs/how-to/offline.md). model=maskclip_textures (model@teacher=maskclip_textures in training) ships with the project "
        "and needs no download"
    )


def load_clip(architecture: str, pretrained: str | None, with_text: bool = True) -> CLIP:
    """A float32 CLIP on the CPU in eval mode, with `visual`, `encode_text` and `logit_scale`.

    `architecture`: a name in `open_clip.list_models()`, or "maskclip-tiny". `pretrained`: a tag of
    `open_clip.list_pretrained_tags_by_model`, a file, or None for random weights. `with_text=False` also accepts a file
    without a text tower; `encode_text` is then meaningless.

    Raises `InputError` if the architecture is unknown, or the weights cannot be downloaded, cannot be read or do not fit.
    """
    tiny.register()
    if architecture not in open_clip.list_models():
        raise InputError(
            f"unknown CLIP architecture {architecture!r} (model.architecture): choose one of open_clip.list_models(), such as "
            "ViT-B-16-quickgelu or RN50-quickgelu"
        )
    if architecture == tiny.ARCHITECTURE and pretrained == "textures":
        return _filled(create(architecture), tiny.load_weights(), "the weights that ship with the project").eval()
    if pretrained is None:
        return create(architecture, with_text).eval()
    if Path(pretrained).is_file():
        return _load_file(architecture, Path(pretrained), with_text).eval()
    return _load_tag(architecture, pretrained, with_text).eval()


def _load_file(architecture: str, path: Path, with_text: bool) -> CLIP:
    tensors, openai = read_tensors(path), is_torchscript(path)
    if openai or counterpart_of(architecture) is not None:
        _check_activation(architecture, str(path), True if openai else trained_with_quick_gelu(path, tensors))
    if not openai and len(normalisations_of(architecture)) > 1:
        warnings.warn(
            f"{path} does not record the image normalisation that {architecture} was trained with: OpenAI's mean and standard "
            "deviation are used. If that is wrong, set model.normalisation to half, imagenet or none",
            stacklevel=3,
        )
    model = create(architecture, with_text)
    if openai:
        model.visual.image_mean, model.visual.image_std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return _filled(model, weights_among(tensors), f"the weights in {path} for {architecture}", with_text)


NAMES = {True: "QuickGELU", False: "GELU"}


def _check_activation(architecture: str, weights: str, quick: bool | None) -> None:
    """Raise `InputError` for weights that were trained with the other activation. Warn if theirs is unknown (`quick` is None)."""
    computes, counterpart = computes_quick_gelu(architecture), counterpart_of(architecture)
    if quick is None:
        warnings.warn(
            f"{weights} does not record whether it was trained with GELU or QuickGELU; {architecture} computes {NAMES[computes]}. "
            f"The wrong one makes labels worse: if so, set model.architecture={counterpart} (teacher.architecture in training)",
            stacklevel=4,
        )
    elif quick != computes:
        remedy = f"use model.architecture={counterpart}" if counterpart else "choose another model.architecture"
        raise InputError(f"the weights {weights!r} were trained with {NAMES[quick]}, {architecture} computes {NAMES[computes]}: {remedy}")


def create(architecture: str, with_text: bool = True) -> CLIP:
    """A CLIP with random weights. `with_text=False` saves time and memory by building a tiny text tower.

    The image tower has the mean and standard deviation of `normalisation_of`. Raises `InputError` if open_clip cannot build it.
    """
    try:
        with QUIET:
            model: CLIP = open_clip.create_model(architecture) if with_text else open_clip.CustomTextCLIP(**_without_text(architecture))
    except (ImportError, RuntimeError) as cause:
        raise InputError(f"open_clip cannot build {architecture}: {cause}") from cause
    model.visual.image_mean, model.visual.image_std = normalisation_of(architecture)
    return model


def _without_text(architecture: str) -> dict[str, Any]:
    if (config := open_clip.get_model_config(architecture)) is None:
        raise RuntimeError("unknown architecture")
    tiny_text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    return {key: config[key] for key in ("embed_dim", "vision_cfg", "quick_gelu") if key in config} | {"text_cfg": tiny_text}


def normalisation_of(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in 0..1 that all pretrained weights of an architecture share, otherwise OpenAI's."""
    shared = normalisations_of(architecture)
    return shared.pop() if len(shared) == 1 else (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def normalisations_of(architecture: str) -> set[tuple[tuple[float, ...], tuple[float, ...]]]:
    """The different means and standard deviations of an architecture's pretrained weights."""
    tags = [open_clip.get_pretrained_cfg(architecture, tag) for tag in open_clip.list_pretrained_tags_by_model(architecture)]
    return {(tuple(tag["mean"]), tuple(tag["std"])) for tag in tags if tag.get("mean") and tag.get("std")}


def _filled(model: CLIP, state: State, what: str, with_text: bool = True) -> CLIP:
    """Load a state dict into a model and return the model. Raises `InputError` with the mismatches.

    `what` names the weights in the message. `logit_scale` becomes NaN if a state dict without text tower lacks it.
    """
    if "text.positional_embedding" in model.state_dict():
        state = convert_to_custom_text_state_dict(state)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    required = {name for name in shapes if with_text or name.startswith("visual.")}
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    if not with_text:
        tensors = {name: value for name, value in tensors.items() if name.startswith("visual.") or name == "logit_scale"}
    mismatches = {
        "lacks": required - set(tensors),
        "has the unknown": set(tensors) - set(shapes),
        "has another shape for": {name for name in tensors if name in shapes and tensors[name].shape != shapes[name]},
    }
    problems = [
        f"{problem} {sorted(names)[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for problem, names in mismatches.items()
        if names
    ]
    if problems:
        raise InputError(f"{what} do not fit: the file {', '.join(problems)}. Set model.architecture to that of the weights")
    model.load_state_dict(tensors, strict=False)
    if "logit_scale" not in tensors:
        torch.nn.init.constant_(model.logit_scale, math.nan)
    return model


def _load_tag(architecture: str, pretrained: str, with_text: bool) -> CLIP:
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained not in tags:
        raise InputError(
            f"model.pretrained={pretrained} is neither a file nor a tag of {architecture}. Its tags: {', '.join(tags) or 'none'}"
        )
    source = open_clip.get_pretrained_cfg(architecture, pretrained) or {}
    if source.get("quick_gelu"):
        _check_activation(architecture, pretrained, quick=True)
    try:
        with QUIET:
            if not with_text:
                state = read_state_dict(Path(open_clip.download_pretrained(source)))
                model = _filled(create(architecture, with_text), state, f"the weights {pretrained!r} of {architecture}", with_text)
                model.visual.image_mean, model.visual.image_std = source["mean"], source["std"]
                return model
            return open_clip.create_model(architecture, pretrained=pretrained, weights_only=True)
    except OSError as cause:  # no network, hub offline, broken download
        raise _missing(architecture, pretrained) from cause
    except (pickle.UnpicklingError, ImportError) as cause:
        raise InputError(f"the weights {pretrained!r} of {architecture} cannot be loaded: {cause}") from cause
    except InputError:
        raise
    except Exception as cause:
        if "download" in str(cause).lower() or "connect" in str(cause).lower():
            raise _missing(architecture, pretrained) from cause
        raise


def load_tokenizer(architecture: str) -> Any:
    """The tokenizer of an architecture. Raises `InputError` if it needs another package or a download that fails."""
    try:
        return open_clip.get_tokenizer(architecture)
    except (ImportError, AssertionError) as cause:
        raise InputError(f"the tokenizer of {architecture} needs the package transformers: pip install transformers") from cause
    except OSError as cause:
        raise InputError(
            f"the tokenizer of {architecture} is not on this machine and could not be downloaded. Connect to the internet once, or "
            "pass text embeddings made elsewhere with python src/embed_text.py: model.text_embeddings=/path/to/file"
        ) from cause


def fingerprints(model: CLIP) -> dict[str, str]:
    """SHA-256 of the weights of a CLIP: `visual_sha256` of its image tower, `text_sha256` of everything else."""
    return {"visual_sha256": weights_sha256(model.visual), "text_sha256": weights_sha256(model, without="visual.")}
