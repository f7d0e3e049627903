"""Run the text tower of a CLIP without the padding behind the sentences."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch import Tensor


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """Embeddings (T, D) of token ids (T, L), not normalised. The result is that of `model.encode_text`.

    In a causal tower a position depends only on earlier ones, so the tokens after the last end token of all sentences are
    cut off. Other towers run at full length.
    """
    tower = _causal_tower(model)
    if tower is None:
        return model.encode_text(tokens)
    ends = _ends(tower, tokens)
    length = int(ends.max()) + 1
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens[:, :length]).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x[torch.arange(len(x), device=x.device), ends])
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, torch.nn.Module) else x @ projection


def _causal_tower(model: Any) -> Any:
    """The module with the parts of a causal text tower whose embedding is taken at the end token; None for other towers."""
    if type(model) is CLIP:
        tower = model
    elif type(model) is CustomTextCLIP and type(model.text) is TextTransformer and model.text.cls_emb is None:
        tower = model.text
    else:
        return None
    return tower if tower.attn_mask is not None and _pooling(tower) in ("argmax", "eos") else None


def _pooling(tower: Any) -> str:
    return tower.text_pool_type if isinstance(tower, CLIP) else tower.pool_type


def _ends(tower: Any, tokens: Tensor) -> Tensor:
    """The position (T,) of the embedding in each sentence: of the largest token id, or of the first end token."""
    if _pooling(tower) == "argmax":
        return tokens.argmax(dim=-1)
    end = tower.text_eos_id if isinstance(tower, CLIP) else tower.eos_id
    return (tokens == end).int().argmax(dim=-1)
