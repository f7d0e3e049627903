"""What the last block of a ViT does when its patch tokens are to be read, instead of its class token.

A strategy is a function of the last block and the tokens that enter it, X (B, 1 + hw, K) with the class token first,
that returns patch tokens (B, hw, K) ready for ln_post and the projection. To add one, write the function and enter it
in `STRATEGIES`. Notation as in the paper: y = LN1(X), values v, output projection O.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

Strategy = Callable[[ResidualAttentionBlock, Tensor], Tensor]


def project(block: ResidualAttentionBlock, normed: Tensor, part: int) -> Tensor:
    """Queries (part 0), keys (1) or values (2) of tokens (B, N, K) that have passed LN1, heads side by side."""
    attention = block.attn
    width = normed.shape[-1]
    rows = slice(part * width, (part + 1) * width)
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[rows]
    return F.linear(normed, attention.in_proj_weight[rows], bias)


def keys(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """Keys of the patch tokens, (B, hw, K): what key smoothing compares."""
    return project(block, block.ln_1(tokens[:, 1:]), part=1)


def _values(block: ResidualAttentionBlock, patches: Tensor) -> Tensor:
    return block.ls_1(block.attn.out_proj(project(block, block.ln_1(patches), part=2)))


def clip(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """Z = X + O softmax(qk'/sqrt d) v, then + MLP(LN2 Z): the unmodified block, the paper's baseline."""
    return block(tokens)[:, 1:]


def maskclip(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """Z = X + O v, then + MLP(LN2 Z): attention replaced by the identity, residual and MLP kept (section 3.2)."""
    patches = tokens[:, 1:]
    mixed = patches + _values(block, patches)
    return mixed + block.ls_2(block.mlp(block.ln_2(mixed)))


def value(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """Z = O v: neither residual nor MLP."""
    return _values(block, tokens[:, 1:])


STRATEGIES: dict[str, Strategy] = {"clip": clip, "maskclip": maskclip, "value": value}
