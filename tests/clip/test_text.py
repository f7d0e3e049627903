"""Text embeddings of shortened sentences against open_clip's own of full length."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CustomTextCLIP
from support.zoo import VIT
from torch import Tensor

from maskclip import Vocabulary
from maskclip.clip.text import encode_text
from maskclip.clip.text_embeddings import embed_vocabulary

END = 49407
TEXT = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}
SENTENCES = ["cat", "a photo of the large traffic light.", "", "itap of a dog"]


def tower(kind: type[Any], **text: Any) -> Any:
    torch.manual_seed(0)
    model = kind(embed_dim=24, vision_cfg=VIT, text_cfg={**TEXT, **text}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def lengths(model: Any, tokens: Tensor) -> tuple[Tensor, set[int]]:
    """The embeddings, and the numbers of positions that reached the transformer."""
    seen: set[int] = set()
    inner = model.transformer if isinstance(model, CLIP) else model.text.transformer
    handle = inner.register_forward_pre_hook(lambda _, args: seen.add(args[0].shape[1]))
    with torch.no_grad():
        embeddings = encode_text(model, tokens)
    handle.remove()
    return embeddings, seen


@torch.no_grad()
@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize(
    "text",
    [
        {},
        {"pool_type": "eos", "eos_id": END},
        {"proj_bias": True},
        {"proj_type": "none"},
        {"ls_init_value": 0.1},
    ],
    ids=str,
)
def test_causal_towers_return_the_same_for_shortened_sentences(kind: type[Any], text: dict[str, Any]) -> None:
    if not text.keys() <= {field.name for field in fields(CLIPTextCfg)}:
        pytest.skip("not in this version of open_clip")
    model, tokens = tower(kind, **text), open_clip.SimpleTokenizer(context_length=32)(SENTENCES)
    embeddings, seen = lengths(model, tokens)
    torch.testing.assert_close(embeddings, model.encode_text(tokens), atol=1e-5, rtol=1e-5)
    assert seen == {10}  # start, a photo of the large traffic light ., end


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (CLIP, {"no_causal_mask": True}),
        (CLIP, {"no_causal_mask": True, "pool_type": "last"}),
        (CLIP, {"pool_type": "last"}),
        (CustomTextCLIP, {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),  # SigLIP
        (CustomTextCLIP, {"pool_type": "last"}),
        (CustomTextCLIP, {"embed_cls": True}),  # CoCa
    ],
    ids=str,
)
def test_other_towers_keep_all_positions(kind: type[Any], text: dict[str, Any]) -> None:
    model, tokens = tower(kind, **text), open_clip.SimpleTokenizer(context_length=32)(SENTENCES)
    embeddings, seen = lengths(model, tokens)
    assert torch.equal(embeddings, model.encode_text(tokens)) and seen == {33 if "embed_cls" in text else 32}


@torch.no_grad()
def test_sentences_that_fill_the_context_are_not_cut() -> None:
    model, tokens = tower(CLIP), open_clip.SimpleTokenizer(context_length=32)(["word " * 30, "cat"])
    embeddings, seen = lengths(model, tokens)
    torch.testing.assert_close(embeddings, model.encode_text(tokens), atol=1e-5, rtol=1e-5)
    assert seen == {32}


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["ViT-S-32", "EVA02-B-16", "ViT-B-16-SigLIP", "coca_ViT-B-32"])
def test_towers_of_open_clip(architecture: str) -> None:
    """The configuration of an architecture with 2 layers and the vocabulary of CLIP."""
    config = open_clip.get_model_config(architecture)
    assert config is not None
    text = {**config["text_cfg"], "width": 32, "heads": 2, "layers": 2, "vocab_size": 49408}
    text = {key: value for key, value in text.items() if not key.startswith(("hf_", "tokenizer"))}
    model = (CustomTextCLIP if config.get("custom_text") or "coca" in architecture else CLIP)(
        embed_dim=24, vision_cfg=VIT, text_cfg=text
    ).eval()
    tokens = open_clip.SimpleTokenizer(context_length=text["context_length"])(SENTENCES)
    embeddings, seen = lengths(model, tokens)
    torch.testing.assert_close(embeddings, model.encode_text(tokens), atol=1e-5, rtol=1e-5)
    assert (seen == {10}) == (architecture in ("ViT-S-32", "EVA02-B-16"))


@torch.no_grad()
def test_a_vocabulary_runs_at_the_length_of_its_sentences() -> None:
    model, seen = tower(CLIP), set[int]()
    model.transformer.register_forward_pre_hook(lambda _, args: seen.add(args[0].shape[1]))
    embed_vocabulary(model, open_clip.SimpleTokenizer(context_length=32), Vocabulary(["cat", "old dog"]), ["a {}.", "the {}."])
    assert seen == {5, 6}  # start, a cat ., end
