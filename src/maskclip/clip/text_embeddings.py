"""From class names to text embeddings: sentences, the mean over them, and files that keep the result."""

from __future__ import annotations

import hashlib
import json
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
"""The five sentences that the authors add to CLIP's 80 ImageNet templates."""

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
"""Sentences by name: MaskCLIP's 85, CLIP's 80, TCL's nine (`custom` in its datasets/templates.py), and one."""

ABOUT = ("architecture", "templates", "visual_sha256", "text_sha256", "logit_scale")
"""What a file of text embeddings says about where they come from."""

Tokenizer = Callable[..., Tensor]


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Sentences with one {} each, from the name of a set ("maskclip", "openai", "tcl", "simple") or as given."""
    if isinstance(templates, str):
        if templates not in TEMPLATE_SETS:
            raise InputError(f"unknown templates {templates!r}: one of {', '.join(TEMPLATE_SETS)}, or a list of sentences with {{}}")
        return TEMPLATE_SETS[templates]
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise InputError("templates must be a list of sentences with exactly one {} each, such as 'a photo of a {}.'")
    return tuple(templates)


def tokenize(tokenizer: Tokenizer, word: str, templates: Sequence[str]) -> Tensor:
    """Token ids (T, L) of a word in every template. Raises `InputError` where the tokenizer would cut a sentence off."""
    sentences = [template.replace("{}", word) for template in templates]
    tokens = tokenizer(sentences)
    length = tokens.shape[1]
    longer = tokenizer(sentences, context_length=length + 4 * max(map(len, sentences)) + 8)
    cut = (longer[:, length:] != longer[:, -1:]).any(dim=1)  # the last column of the longer ones is padding
    if cut.any():
        raise InputError(
            f"the class name {word if len(word) <= 60 else word[:60] + '...'!r} is too long for the text tower, which reads "
            f"{length} tokens: it would be cut off in {sentences[int(cut.int().argmax())][:40]!r}...; give a shorter name or template"
        )
    return tokens


@torch.no_grad()
def embed_vocabulary(model: CLIP, tokenizer: Tokenizer, vocabulary: Vocabulary, templates: Sequence[str]) -> Tensor:
    """One unit text embedding for every word, class by class, (W, D), float32.

    The mean of the unit embeddings of all sentences with the word, made unit again (section 3.2, "prompt engineering").
    """
    device = next(model.parameters()).device
    words = [word for words in vocabulary.words for word in words]
    tokens = [tokenize(tokenizer, word, templates) for word in words]  # a name that is too long is said at once
    many = len(words) * len(templates) > 1000
    rows = []
    for sentences in tqdm(tokens, desc="reading the class names", unit="word", leave=False, disable=not many):
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
    """`embed_vocabulary`, kept in the folder `cache` under a key of architecture, weights, words and templates; None: not kept.

    `weights` are the `fingerprints` of the model. The files are those of `save_text`.
    """
    if cache is None:
        return embed_vocabulary(model, tokenizer, vocabulary, templates)
    scale = model.logit_scale.exp().item()
    about = {"architecture": architecture, **weights, "templates": list(templates), "logit_scale": scale}
    fingerprint = json.dumps({**about, "words": vocabulary.words}, sort_keys=True)
    path = cache / "text" / f"{hashlib.sha256(fingerprint.encode()).hexdigest()}.safetensors"
    if path.is_file():
        try:
            return load_text(path, vocabulary, architecture)[0]
        except InputError as cause:
            warnings.warn(f"{cause}; it is a cache, so the text embeddings are computed again", stacklevel=2)
    embeddings = embed_vocabulary(model, tokenizer, vocabulary, templates)
    try:
        save_text(path, embeddings, vocabulary, about)
        remove_stale(path.parent)
    except InputError as cause:
        warnings.warn(f"text embeddings are not kept: {cause} ($MASKCLIP_CACHE names another folder)", stacklevel=2)
    return embeddings


def save_text(path: Path, embeddings: Tensor, vocabulary: Vocabulary, about: Mapping[str, Any]) -> None:
    """Write text embeddings as safetensors; atomic.

    Tensor `text_embeddings` (W, D) float32, unit rows. Metadata, as JSON strings: `words` (W of them, in the order of the
    rows), and of `about` what `ABOUT` names.
    """
    metadata = {key: json.dumps(about[key]) for key in ABOUT if key in about}
    metadata["words"] = json.dumps([word for words in vocabulary.words for word in words])
    write_bytes(path, save({"text_embeddings": embeddings.float().contiguous()}, metadata))


def load_text(path: Path, vocabulary: Vocabulary, architecture: str, visual_sha256: str | None = None) -> tuple[Tensor, dict[str, Any]]:
    """The rows (W, D) for the vocabulary's words from a file of `save_text`, and what it says about itself (`ABOUT`).

    The file may hold more words, in any order. Raises `InputError` if it is missing, not such a file, made with another
    architecture or (`visual_sha256`) other weights, or lacks a word.
    """
    if not path.is_file():
        raise InputError(f"no text embeddings {path} (model.text_embeddings); python src/embed_text.py writes them")
    check_readable(path, "model.text_embeddings")
    try:
        with safe_open(path, framework="pt") as file:
            about = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            embeddings, words = file.get_tensor("text_embeddings"), about["words"]
        if embeddings.ndim != 2 or len(embeddings) != len(words) or not embeddings.isfinite().all():
            raise ValueError("rows and words differ")
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as cause:
        raise InputError(f"{path} is not a file of text embeddings as python src/embed_text.py writes them") from cause
    if about.get("architecture", architecture) != architecture:
        raise InputError(f"the text embeddings in {path} are those of {about['architecture']}, not of {architecture}")
    if visual_sha256 is not None and about.get("visual_sha256", visual_sha256) != visual_sha256:
        raise InputError(
            f"the text embeddings in {path} were made with other weights of {architecture} than those that read the images: "
            "make them with python src/embed_text.py and the same model.pretrained"
        )
    place = {word: row for row, word in enumerate(words)}
    wanted = [word for words in vocabulary.words for word in words]
    if missing := [word for word in wanted if word not in place]:
        raise InputError(f"the text embeddings in {path} lack {', '.join(missing[:8])}{' ...' if len(missing) > 8 else ''}")
    return embeddings[[place[word] for word in wanted]], about
