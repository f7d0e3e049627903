"""From class names to text embeddings: sentences, the mean over them, and a cache on disk."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from os import getpid
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from maskclip.errors import InputError
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
    "paper": tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES) + IN_THE_SCENE,
    "imagenet": tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES),
    "single": ("a photo of a {}.",),
}

Tokenizer = Callable[[list[str]], Tensor]


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Sentences with one {} each, from the name of a set ("paper", "imagenet", "single") or as given."""
    if isinstance(templates, str):
        if templates not in TEMPLATE_SETS:
            raise InputError(f"unknown templates {templates!r}: one of {', '.join(TEMPLATE_SETS)}, or a list of sentences with {{}}")
        return TEMPLATE_SETS[templates]
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise InputError("templates must be a list of sentences with exactly one {} each, such as 'a photo of a {}.'")
    return tuple(templates)


@torch.no_grad()
def embed_vocabulary(model: CLIP, tokenizer: Tokenizer, vocabulary: Vocabulary, templates: Sequence[str]) -> Tensor:
    """One unit text embedding for each class that has words, (C, D), float32.

    The mean of the unit embeddings of every sentence with every synonym, made unit again (section 3.2, "prompt
    engineering").
    """
    device = next(model.parameters()).device
    rows = []
    many = len(vocabulary.words) * len(templates) > 1000
    for words in tqdm(vocabulary.words, desc="reading the class names", unit="class", leave=False, disable=not many):
        sentences = [template.format(word) for word in words for template in templates]
        embeddings = F.normalize(model.encode_text(tokenizer(sentences).to(device)).float(), dim=-1)
        rows.append(F.normalize(embeddings.mean(dim=0), dim=0))
    return torch.stack(rows).cpu()


def cached_embeddings(
    model: CLIP,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    templates: Sequence[str],
    weights: str,
    cache: Path | None,
) -> Tensor:
    """`embed_vocabulary`, kept in the folder `cache` under a key of weights, words and templates; None: not kept.

    `weights` identifies the text tower: its architecture and a fingerprint of its weights.
    """
    if cache is None:
        return embed_vocabulary(model, tokenizer, vocabulary, templates)
    fingerprint = json.dumps({"weights": weights, "words": vocabulary.words, "templates": list(templates)}, sort_keys=True)
    path = cache / "text" / f"{hashlib.sha256(fingerprint.encode()).hexdigest()}.safetensors"
    if path.is_file():
        return load_file(path)["text_embeddings"]
    embeddings = embed_vocabulary(model, tokenizer, vocabulary, templates)
    partial = path.with_suffix(f".{getpid()}")  # several processes may write the same entry
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"text_embeddings": embeddings}, partial)
        partial.replace(path)
    except OSError as cause:
        warnings.warn(f"text embeddings are not kept: {cause} ($MASKCLIP_CACHE names another folder)", stacklevel=2)
    return embeddings
