"""Adapters that give the transformer blocks of open_clip and timm one interface, from which strategies are composed.

Shapes: B images, N tokens of which the first `prefix` are class and register tokens, K channels, heads of d channels each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from timm.layers import apply_rot_embed_cat
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from maskclip.errors import InputError

QUERIES, KEYS, VALUES = range(3)

UNSUPPORTED = "is not supported as an image tower"
"""End of messages about towers whose dense features cannot be computed."""


class Block(ABC):
    """A transformer block: Z = X + O attention(q, k, v), then Z + M(Z), where q, k and v are projections of y = norm(X)."""

    def __init__(self, module: Any, prefix: int, rope: Tensor | None = None) -> None:
        self.module, self.prefix, self.rope = module, prefix, rope

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, K) after the unmodified block."""
        return self.module(tokens) if self.rope is None else self.module(tokens, rope=self.rope)

    @property
    def num_heads(self) -> int:
        return self.module.attn.num_heads

    @abstractmethod
    def norm(self, tokens: Tensor) -> Tensor:
        """y (B, N, K): the input of the projections."""

    @abstractmethod
    def linear(self, y: Tensor, part: int) -> Tensor:
        """Queries, keys or values (B, N, K), with the heads concatenated."""

    @abstractmethod
    def output_projection(self, attended: Tensor) -> Tensor:
        """O: what the attention adds to the residual stream (B, N, K), from attended values (B, heads, N, d)."""

    @abstractmethod
    def mlp(self, tokens: Tensor) -> Tensor:
        """M(Z): what the MLP adds to the tokens Z (B, N, K)."""

    def head_norm(self, heads: Tensor, part: int) -> Tensor:
        """Queries or keys (B, heads, N, d) after the per-head norm, in blocks that have one."""
        return heads

    def project(self, y: Tensor, part: int, patches_only: bool = False) -> Tensor:
        """Queries, keys or values (B, heads, N, d) as the block's attention uses them, from y (B, N, K).

        They include rotary positions. `patches_only=True` drops the class and register tokens.
        """
        heads = self.heads(self.patches(y) if patches_only else y, part)
        if self.rope is None or part == VALUES:
            return heads
        prefix = 0 if patches_only else self.prefix
        half = getattr(self.module.get_submodule("attn"), "rotate_half", False)
        rotated = apply_rot_embed_cat(heads[:, :, prefix:], self.rope, half=half).type_as(heads)
        return torch.cat([heads[:, :, :prefix], rotated], dim=2)

    def heads(self, y: Tensor, part: int) -> Tensor:
        """Queries, keys or values (B, heads, N, d) without rotary positions."""
        return self.head_norm(self.linear(y, part).unflatten(2, (self.num_heads, -1)).transpose(1, 2), part)

    def patches(self, tokens: Tensor) -> Tensor:
        """The tokens (B, N, K) without class and register tokens."""
        return tokens[:, self.prefix :]


class OpenCLIPBlock(Block):
    """open_clip's ResidualAttentionBlock around nn.MultiheadAttention."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, K) after the unmodified block.

        This does not call nn.MultiheadAttention: its fast path stores the full softmax(qk') on CPUs, and only a process-wide
        switch turns the fast path off.
        """
        attention = self.module.attn
        packed = F.linear(self.norm(tokens), attention.in_proj_weight, attention.in_proj_bias)  # B x N x 3K
        q, k, v = packed.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each B x heads x N x d
        tokens = tokens + self.output_projection(F.scaled_dot_product_attention(q, k, v))
        return tokens + self.mlp(tokens)

    def norm(self, tokens: Tensor) -> Tensor:
        return self.module.ln_1(tokens)

    def linear(self, y: Tensor, part: int) -> Tensor:
        return packed_projection(self.module.attn, y, part)

    def output_projection(self, attended: Tensor) -> Tensor:
        return self.module.ls_1(self.module.attn.out_proj(_concatenated(attended)))

    def mlp(self, tokens: Tensor) -> Tensor:
        return self.module.ls_2(self.module.mlp(self.module.ln_2(tokens)))


class TimmBlockAdapter(Block):
    """Base of timm's blocks, which may normalise queries and keys per head and the attended values before O."""

    def head_norm(self, heads: Tensor, part: int) -> Tensor:
        attention = self.module.attn
        return (attention.q_norm, attention.k_norm, nn.Identity())[part](heads)

    def attention_output(self, attended: Tensor) -> Tensor:
        """Attended values (B, heads, N, d) after the norm and the output projection of the attention: (B, N, K)."""
        attention = self.module.attn
        return attention.proj(attention.norm(_concatenated(attended)))


class ViTBlock(TimmBlockAdapter):
    """timm's Block (VisionTransformer)."""

    def norm(self, tokens: Tensor) -> Tensor:
        return self.module.norm1(tokens)

    def linear(self, y: Tensor, part: int) -> Tensor:
        return _rows(self.module.attn.qkv, y, part)

    def output_projection(self, attended: Tensor) -> Tensor:
        return self.module.ls1(self.attention_output(attended))

    def mlp(self, tokens: Tensor) -> Tensor:
        return self.module.ls2(self.module.mlp(self.module.norm2(tokens)))


class EVABlock(TimmBlockAdapter):
    """timm's EvaBlock (EVA01, EVA02, PE): rotary positions, separate or packed projections, norms before attention and MLP."""

    def norm(self, tokens: Tensor) -> Tensor:
        return self.module.norm1(tokens)

    def linear(self, y: Tensor, part: int) -> Tensor:
        attention = self.module.attn
        if attention.qkv is None:
            return (attention.q_proj, attention.k_proj, attention.v_proj)[part](y)
        rows = _rows(attention.qkv, y, part)
        bias: Tensor | None = getattr(attention, f"{'qkv'[part]}_bias", None)
        return rows if bias is None else rows + bias

    def output_projection(self, attended: Tensor) -> Tensor:
        out = self.attention_output(attended)
        return out if self.module.gamma_1 is None else self.module.gamma_1 * out

    def mlp(self, tokens: Tensor) -> Tensor:
        out = self.module.mlp(self.module.norm2(tokens))
        return out if self.module.gamma_2 is None else self.module.gamma_2 * out


class EVAPostNormBlock(EVABlock):
    """timm's EvaBlockPostNorm (EVA02-E): norms after attention and MLP."""

    def norm(self, tokens: Tensor) -> Tensor:
        return tokens

    def output_projection(self, attended: Tensor) -> Tensor:
        return self.module.norm1(self.attention_output(attended))

    def mlp(self, tokens: Tensor) -> Tensor:
        return self.module.norm2(self.module.mlp(tokens))


ADAPTERS: dict[type[nn.Module], type[Block]] = {
    ResidualAttentionBlock: OpenCLIPBlock,
    TimmBlock: ViTBlock,
    EvaBlock: EVABlock,
    EvaBlockPostNorm: EVAPostNormBlock,
}


def adapt_blocks(modules: Sequence[nn.Module], prefix: int, rope: Tensor | None = None) -> list[Block]:
    """Wrap the transformer blocks of a tower. Raises `InputError` if one of them is not supported.

    `prefix`: number of class and register tokens. `rope`: rotary positions of the patches.
    """
    if unknown := {type(module).__name__ for module in modules if type(module) not in ADAPTERS}:
        raise InputError(f"a tower with blocks of type {', '.join(sorted(unknown))} {UNSUPPORTED}")
    if any(getattr(module.get_submodule("attn"), "gate", None) is not None for module in modules):
        raise InputError(f"a tower with gated attention {UNSUPPORTED}")
    return [ADAPTERS[type(module)](module, prefix, rope) for module in modules]


def packed_projection(attention: nn.MultiheadAttention, y: Tensor, part: int) -> Tensor:
    """Queries, keys or values (B, N, K) of an nn.MultiheadAttention; keys and values may have another input width."""
    width = attention.embed_dim
    rows = slice(part * width, (part + 1) * width)
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[rows]
    if attention.in_proj_weight is not None:
        return F.linear(y, attention.in_proj_weight[rows], bias)
    return F.linear(y, (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)[part], bias)


def _rows(qkv: nn.Linear, y: Tensor, part: int) -> Tensor:
    width = qkv.out_features // 3
    rows = slice(part * width, (part + 1) * width)
    return F.linear(y, qkv.weight[rows], None if qkv.bias is None else qkv.bias[rows])


def _concatenated(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)  # B x heads x N x d -> B x N x K
