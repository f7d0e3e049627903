"""Text embeddings of class names: templates, the mean over sentences, and the files that store them."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from maskclip.clip.text import encode_text
from maskclip.errors import InputError
from maskclip.files import check_readable, remove_stale, write_bytes
from maskclip.vocabulary import Vocabulary

IN_THE_SCENE = (
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)
"""The five templates that MaskCLIP adds to CLIP's 80 ImageNet templates."""

TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    "maskclip": tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES) + IN_THE_SCENE,
    "openai": tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES),
    "tcl": (
        "itap of a {}.",
        "a bad photo of a {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
        "a photo of many {}.",
        "a photo of {}s.",
    ),
    "simple": ("a photo of a {}.",),
}
"""Templates by name: MaskCLIP's 85, CLIP's 80 for ImageNet, TCL's nine (`custom` in its datasets/templates.py), and one."""

METADATA = ("architecture", "templates", "visual_sha256", "text_sha256", "logit_scale")
"""Keys of the metadata that record the origin of text embeddings, where it is known."""

Tokenizer = Callable[..., Tensor]


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Templates with one {} each: those of a set (a key of `TEMPLATE_SETS`) or the listed ones. Raises `InputError` if invalid."""
    if isinstance(templates, str):
        if templates not in TEMPLATE_SETS:
            raise InputError(f"unknown templates {templates!r} (model.templates): choose {', '.join(TEMPLATE_SETS)}, or list sentences")
        return TEMPLATE_SETS[templates]
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise InputError("model.templates must be a list of sentences with exactly one {} each, such as ['a photo of a {}.']")
    return tuple(templates)


def tokenize(tokenizer: Tokenizer, word: str, templates: Sequence[str]) -> Tensor:
    """Token ids (T, L) of a word in each of T templates. Raises `InputError` if a sentence is longer than the text tower's input."""
    sentences = [template.replace("{}", word) for template in templates]
    tokens = tokenizer(sentences)
    length = tokens.shape[1]
    longer = tokenizer(sentences, context_length=length + 4 * max(map(len, sentences)) + 8)
    cut = (longer[:, length:] != longer[:, -1:]).any(dim=1)  # the last column of `longer` is padding
    if cut.any():
        raise InputError(
            f"the class name {word if len(word) <= 60 else word[:60] + '...'!r} is too long for the text tower, which takes {length} "
            f"tokens: {sentences[int(cut.int().argmax())][:40]!r}... would be cut off. Use a shorter name or template"
        )
    return tokens


@torch.no_grad()
def embed_vocabulary(model: CLIP, tokenizer: Tokenizer, vocabulary: Vocabulary, templates: Sequence[str]) -> Tensor:
    """Unit text embeddings (W, D) of all words, class by class, float32 on the CPU.

    Each is the mean over the templates of the unit embeddings of the sentences, normalised again (section 3, prompt
    engineering).
    """
    device = next(model.parameters()).device
    words = [word for words in vocabulary.words for word in words]
    tokens = [tokenize(tokenizer, word, templates) for word in words]  # a name that is too long raises before the tower runs
    many = len(words) * len(templates) > 1000
    rows = []
    for sentences in tqdm(tokens, desc="embedding the class names", unit="word", leave=False, disable=not many):
        embeddings = F.normalize(encode_text(model, sentences.to(device)).float(), dim=-1)
        rows.append(F.normalize(embeddings.mean(dim=0), dim=0))
    return torch.stack(rows).cpu()


def cached_embeddings(
    model: CLIP,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    templates: Sequence[str],
    architecture: str,
    weights: Mapping[str, str],
    cache: Path | None,
) -> Tensor:
    """The result of `embed_vocabulary`, from the folder `cache` if it is stored in it. `cache=None` stores nothing.

    The key is the SHA-256 of architecture, weights, words, templates and logit scale. `weights` are the `fingerprints` of
    the model. The files have the format of `save_text`. A damaged file is computed again, with a warning.
    """
    if cache is None:
        return embed_vocabulary(model, tokenizer, vocabulary, templates)
    scale = model.logit_scale.exp().item()
    metadata = {"architecture": architecture, **weights, "templates": list(templates), "logit_scale": scale}
    key = json.dumps({**metadata, "words": vocabulary.words}, sort_keys=True)
    path = cache / "text" / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    if path.is_file():
        try:
            return load_text(path, vocabulary, architecture)[0]
        except InputError as cause:
            warnings.warn(f"{cause}. The file is part of the cache: the text embeddings are computed again", stacklevel=2)
    embeddings = embed_vocabulary(model, tokenizer, vocabulary, templates)
    try:
        save_text(path, embeddings, vocabulary, metadata)
        remove_stale(path.parent)
    except InputError as cause:
        warnings.warn(f"the text embeddings are not cached: {cause}. Set MASKCLIP_CACHE to a folder that can be written", stacklevel=2)
    return embeddings


def cache_root() -> Path:
    """The folder of the cache: $MASKCLIP_CACHE, or ~/.cache/maskclip."""
    return Path(os.environ.get("MASKCLIP_CACHE", Path.home() / ".cache" / "maskclip"))


def save_text(path: Path, embeddings: Tensor, vocabulary: Vocabulary, provenance: Mapping[str, Any]) -> None:
    """Write text embeddings as safetensors; atomic.

    The tensor `text_embeddings` (W, D) is float32 with unit rows. The metadata are JSON strings: `words`, one for each row,
    and the keys of `provenance` that are in `METADATA`.
    """
    metadata = {key: json.dumps(provenance[key]) for key in METADATA if key in provenance}
    metadata["words"] = json.dumps([word for words in vocabulary.words for word in words])
    write_bytes(path, save({"text_embeddings": embeddings.float().contiguous()}, metadata))


def load_text(path: Path, vocabulary: Vocabulary, architecture: str, visual_sha256: str | None = None) -> tuple[Tensor, dict[str, Any]]:
    """Return the embeddings (W, D) of the vocabulary's words from a file of `save_text`, and the file's metadata.

    The file may have more words, in any order. Raises `InputError` if it is missing or has another format, if it belongs to
    another architecture or, with `visual_sha256`, to other weights, or if it lacks a word.
    """
    if not path.is_file():
        raise InputError(f"no file {path} (model.text_embeddings): write it with python src/embed_text.py")
    check_readable(path, "model.text_embeddings")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            embeddings, words = file.get_tensor("text_embeddings"), metadata["words"]
        if embeddings.ndim != 2 or len(embeddings) != len(words) or not embeddings.isfinite().all():
            raise ValueError("not one finite row for each word")
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as cause:
        raise InputError(f"{path} (model.text_embeddings) is not a file of python src/embed_text.py: write it again") from cause
    if metadata.get("architecture", architecture) != architecture:
        raise InputError(
            f"the text embeddings in {path} (model.text_embeddings) belong to {metadata['architecture']}, but "
            f"model.architecture={architecture}"
        )
    if visual_sha256 is not None and metadata.get("visual_sha256", visual_sha256) != visual_sha256:
        raise InputError(
            f"the text embeddings in {path} were made with other weights of {architecture} than the image tower has: "
            "make them with python src/embed_text.py and the same model.pretrained"
        )
    row_of = {word: row for row, word in enumerate(words)}
    requested = [word for words in vocabulary.words for word in words]
    if missing := [word for word in requested if word not in row_of]:
        listed = ", ".join(missing[:8]) + (" ..." if len(missing) > 8 else "")
        raise InputError(f"the text embeddings in {path} lack {listed}: write them again with these classes")
    return embeddings[[row_of[word] for word in requested]], metadata
