"""Whole CLIP models from open_clip: by name of architecture and weights, or with weights from a file."""

from __future__ import annotations

import logging
import math
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, convert_to_custom_text_state_dict

from maskclip.clip import tiny
from maskclip.clip.activation import computes_quick_gelu, trained_with_quick_gelu, twin_of
from maskclip.clip.weights import State, is_torchscript, read_state_dict, read_tensors, weights_among
from maskclip.errors import InputError
from maskclip.fingerprint import weights_sha256
from maskclip.process_wide import Held


def _levels() -> tuple[int, ...]:
    return tuple(logger.level for logger in LOGGERS)


def _set_levels(levels: tuple[int, ...]) -> None:
    for logger, level in zip(LOGGERS, levels, strict=True):
        logger.setLevel(level)


LOGGERS = (logging.getLogger(), logging.getLogger("huggingface_hub"))

QUIET: Held[tuple[int, ...]] = Held(_levels, _set_levels, (logging.CRITICAL, logging.CRITICAL))
"""Silences open_clip, which logs on the root logger what it did not load: the caller loads it or raises an error."""


def _missing(architecture: str, pretrained: str) -> InputError:
    source = open_clip.get_pretrained_cfg(architecture, pretrained) or {}
    where = f"https://huggingface.co/{source['hf_hub'].rstrip('/')}" if source.get("hf_hub") else source.get("url", "")
    return InputError(
        f"the weights {pretrained!r} of {architecture} are not on this machine and could not be downloaded now. Connect once so "
        f"that open_clip can fetch them, or fetch them elsewhere ({where}) and give the file: model.pretrained=/path/to/file "
        "(teacher.pretrained in training). The model that ships with the project needs no download: model=maskclip_textures"
    )


def load_clip(architecture: str, pretrained: str | None, with_text: bool = True) -> CLIP:
    """A CLIP in eval mode on the CPU, float32, with `visual`, `encode_text` and `logit_scale`.

    `architecture` is a name of `open_clip.list_models()` or "maskclip-tiny"; `pretrained` a tag of
    `open_clip.list_pretrained_tags_by_model`, a file, or None for random weights (tests, dry runs). Without `with_text`
    a file need not hold a text tower, and what `encode_text` says means nothing.
    Raises `InputError` if the architecture is unknown, the weights are out of reach, or they do not fit.
    """
    tiny.register()
    if architecture not in open_clip.list_models():
        raise InputError(
            f"unknown CLIP architecture {architecture!r}; open_clip.list_models() names them, such as ViT-B-16-quickgelu or RN50-quickgelu"
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
    if openai or twin_of(architecture) is not None:
        _check_activation(architecture, str(path), True if openai else trained_with_quick_gelu(path, tensors))
    if not openai and len(_normalisations(architecture)) > 1:
        warnings.warn(
            f"{path} does not say how {architecture} was trained to see colours: OpenAI's mean and standard deviation are taken "
            "(model.normalisation=half, imagenet or none where that is wrong)",
            stacklevel=3,
        )
    model = create(architecture, with_text)
    if openai:
        model.visual.image_mean, model.visual.image_std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return _filled(model, weights_among(tensors), f"the weights in {path} for {architecture}", with_text)


NAMES = {True: "QuickGELU", False: "GELU"}


def _check_activation(architecture: str, weights: str, quick: bool | None) -> None:
    """Refuse weights trained with the other activation; open_clip only warns. Warns if it is unknown (`quick` is None)."""
    computes, twin = computes_quick_gelu(architecture), twin_of(architecture)
    if quick is None:
        warnings.warn(
            f"{weights} does not say whether it was trained with GELU or QuickGELU; {architecture} computes "
            f"{NAMES[computes]}. If that is wrong, labels get worse: use model.architecture={twin} (teacher.architecture in training)",
            stacklevel=4,
        )
    elif quick != computes:
        remedy = f"use model.architecture={twin}" if twin else f"it has no twin with {NAMES[quick]}, choose another architecture"
        raise InputError(f"the weights {weights!r} were trained with {NAMES[quick]}, {architecture} computes {NAMES[computes]}: {remedy}")


def create(architecture: str, with_text: bool = True) -> CLIP:
    """A CLIP with random weights. Without `with_text` its text tower is a toy, so that nothing has to be built for it.

    Mean and standard deviation of the image tower are those that all pretrained weights of the architecture share, else OpenAI's.
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
        raise RuntimeError("it has no architecture of that name")
    toy = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    return {key: config[key] for key in ("embed_dim", "vision_cfg", "quick_gelu") if key in config} | {"text_cfg": toy}


def normalisation_of(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in 0..1 for an architecture: OpenAI's unless all its pretrained weights have others."""
    known = _normalisations(architecture)
    return known.pop() if len(known) == 1 else (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def _normalisations(architecture: str) -> set[tuple[tuple[float, ...], tuple[float, ...]]]:
    tags = [open_clip.get_pretrained_cfg(architecture, tag) for tag in open_clip.list_pretrained_tags_by_model(architecture)]
    return {(tuple(tag["mean"]), tuple(tag["std"])) for tag in tags if tag.get("mean") and tag.get("std")}


def _filled(model: CLIP, state: State, what: str, with_text: bool = True) -> CLIP:
    """The model with its weights from a state dict; `logit_scale` is NaN where a state without text tower lacks it.

    Raises `InputError` that says what does not fit.
    """
    if "text.positional_embedding" in model.state_dict():
        state = convert_to_custom_text_state_dict(state)
    needed = {name for name in model.state_dict() if with_text or name.startswith("visual.")}
    given = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    if not with_text:
        given = {name: value for name, value in given.items() if name.startswith("visual.") or name == "logit_scale"}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    problems = [
        f"{what_is_wrong} {sorted(names)[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for what_is_wrong, names in (
            ("lacks", needed - set(given)),
            ("has besides", set(given) - set(shapes)),
            ("has another shape for", {name for name in given if name in shapes and given[name].shape != shapes[name]}),
        )
        if names
    ]
    if problems:
        raise InputError(f"{what} do not fit: the file {', '.join(problems)}")
    model.load_state_dict(given, strict=False)
    if "logit_scale" not in given:
        torch.nn.init.constant_(model.logit_scale, math.nan)
    return model


def _load_tag(architecture: str, pretrained: str, with_text: bool) -> CLIP:
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained not in tags:
        raise InputError(
            f"{architecture} has no weights {pretrained!r}: no such file, and open_clip's tags are {', '.join(tags) or 'none'}"
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
    """The tokenizer of an architecture. Raises `InputError` if it needs what is not here."""
    try:
        return open_clip.get_tokenizer(architecture)
    except (ImportError, AssertionError) as cause:
        raise InputError(f"the tokenizer of {architecture} needs the package transformers: pip install transformers") from cause
    except OSError as cause:
        raise InputError(
            f"the tokenizer of {architecture} is not on this machine and could not be downloaded now; connect once, or bring text "
            "embeddings from a machine that has it (model.text_embeddings; python src/embed_text.py writes them)"
        ) from cause


def fingerprints(model: CLIP) -> dict[str, str]:
    """`visual_sha256` of the image tower and `text_sha256` of all the rest of a CLIP."""
    return {"visual_sha256": weights_sha256(model.visual), "text_sha256": weights_sha256(model, without="visual.")}


def cache_root() -> Path:
    """Where text embeddings are kept: $MASKCLIP_CACHE, else ~/.cache/maskclip."""
    return Path(os.environ.get("MASKCLIP_CACHE", Path.home() / ".cache" / "maskclip"))
