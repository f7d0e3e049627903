"""One transformer block taken apart: what a reading of CLIP's last block is made of.

A block of open_clip or timm is used as it is; these classes only name its parts alike. B images, N tokens of which the
first `prefix` are class and register tokens, K channels, `heads` of d channels each.
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


class Block(ABC):
    """A transformer block Z = X + O attention(q, k, v), Z + M(Z), with q, k, v the projections of y = N(X)."""

    def __init__(self, module: Any, prefix: int, rope: Tensor | None = None) -> None:
        self.module, self.prefix, self.rope = module, prefix, rope

    def __call__(self, tokens: Tensor) -> Tensor:
        """The unmodified block, (B, N, K)."""
        return self.module(tokens) if self.rope is None else self.module(tokens, rope=self.rope)

    @property
    def num_heads(self) -> int:
        return self.module.attn.num_heads

    @abstractmethod
    def norm(self, tokens: Tensor) -> Tensor:
        """y, what the projections read, (B, N, K)."""

    @abstractmethod
    def linear(self, y: Tensor, part: int) -> Tensor:
        """Queries, keys or values (B, N, K) as the projection gives them, heads side by side."""

    @abstractmethod
    def merge(self, mixed: Tensor) -> Tensor:
        """O: attended values (B, heads, N, d) on their way into the residual stream, (B, N, K)."""

    @abstractmethod
    def mlp(self, tokens: Tensor) -> Tensor:
        """M: what the MLP adds to the tokens (B, N, K)."""

    def head_norm(self, heads: Tensor, part: int) -> Tensor:
        """Queries and keys normalised per head, in the blocks that do so; the others return them as they are."""
        return heads

    def project(self, y: Tensor, part: int, patches_only: bool = False) -> Tensor:
        """Queries, keys or values as the block's attention sees them, (B, heads, N, d); y is (B, N, K).

        With `patches_only` the class and register tokens are left out.
        """
        heads = self.heads(self.patches(y) if patches_only else y, part)
        if self.rope is None or part == VALUES:
            return heads
        prefix = 0 if patches_only else self.prefix
        half = getattr(self.module.get_submodule("attn"), "rotate_half", False)
        turned = apply_rot_embed_cat(heads[:, :, prefix:], self.rope, half=half).type_as(heads)
        return torch.cat([heads[:, :, :prefix], turned], dim=2)

    def heads(self, y: Tensor, part: int) -> Tensor:
        """Queries, keys or values without rotary positions, (B, heads, N, d)."""
        return self.head_norm(self.linear(y, part).unflatten(2, (self.num_heads, -1)).transpose(1, 2), part)

    def patches(self, tokens: Tensor) -> Tensor:
        """The tokens (B, N, K) without class and register tokens."""
        return tokens[:, self.prefix :]


class OpenCLIPBlock(Block):
    """open_clip's ResidualAttentionBlock around nn.MultiheadAttention."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """The unmodified block, (B, N, K).

        Written out, because the fast path of nn.MultiheadAttention stores all of softmax(qk') on CPUs, and only a
        process-wide switch turns it off.
        """
        attention = self.module.attn
        packed = F.linear(self.norm(tokens), attention.in_proj_weight, attention.in_proj_bias)  # B x N x 3K
        q, k, v = packed.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each B x heads x N x d
        tokens = tokens + self.merge(F.scaled_dot_product_attention(q, k, v))
        return tokens + self.mlp(tokens)

    def norm(self, tokens: Tensor) -> Tensor:
        return self.module.ln_1(tokens)

    def linear(self, y: Tensor, part: int) -> Tensor:
        return packed_projection(self.module.attn, y, part)

    def merge(self, mixed: Tensor) -> Tensor:
        return self.module.ls_1(self.module.attn.out_proj(_side_by_side(mixed)))

    def mlp(self, tokens: Tensor) -> Tensor:
        return self.module.ls_2(self.module.mlp(self.module.ln_2(tokens)))


class NormedHeads(Block):
    """What timm's blocks share: queries and keys may be normalised per head, and the attention may end in a norm of its own."""

    def head_norm(self, heads: Tensor, part: int) -> Tensor:
        attention = self.module.attn
        return (attention.q_norm, attention.k_norm, nn.Identity())[part](heads)

    def attended(self, mixed: Tensor) -> Tensor:
        """Attended values (B, heads, N, d) behind norm and output projection of the attention, (B, N, K)."""
        attention = self.module.attn
        return attention.proj(attention.norm(_side_by_side(mixed)))


class ViTBlock(NormedHeads):
    """timm's Block of its VisionTransformer."""

    def norm(self, tokens: Tensor) -> Tensor:
        return self.module.norm1(tokens)

    def linear(self, y: Tensor, part: int) -> Tensor:
        return _rows(self.module.attn.qkv, y, part)

    def merge(self, mixed: Tensor) -> Tensor:
        return self.module.ls1(self.attended(mixed))

    def mlp(self, tokens: Tensor) -> Tensor:
        return self.module.ls2(self.module.mlp(self.module.norm2(tokens)))


class EVABlock(NormedHeads):
    """timm's EvaBlock (EVA01, EVA02, PE): rotary positions, projections apart or packed, LayerNorm before the branches."""

    def norm(self, tokens: Tensor) -> Tensor:
        return self.module.norm1(tokens)

    def linear(self, y: Tensor, part: int) -> Tensor:
        attention = self.module.attn
        if attention.qkv is None:
            return (attention.q_proj, attention.k_proj, attention.v_proj)[part](y)
        rows = _rows(attention.qkv, y, part)
        bias: Tensor | None = getattr(attention, f"{'qkv'[part]}_bias", None)
        return rows if bias is None else rows + bias

    def merge(self, mixed: Tensor) -> Tensor:
        out = self.attended(mixed)
        return out if self.module.gamma_1 is None else self.module.gamma_1 * out

    def mlp(self, tokens: Tensor) -> Tensor:
        out = self.module.mlp(self.module.norm2(tokens))
        return out if self.module.gamma_2 is None else self.module.gamma_2 * out


class EVAPostNormBlock(EVABlock):
    """timm's EvaBlockPostNorm (EVA02-E): LayerNorm behind the branches."""

    def norm(self, tokens: Tensor) -> Tensor:
        return tokens

    def merge(self, mixed: Tensor) -> Tensor:
        return self.module.norm1(self.attended(mixed))

    def mlp(self, tokens: Tensor) -> Tensor:
        return self.module.norm2(self.module.mlp(tokens))


KINDS: dict[type[nn.Module], type[Block]] = {
    ResidualAttentionBlock: OpenCLIPBlock,
    TimmBlock: ViTBlock,
    EvaBlock: EVABlock,
    EvaBlockPostNorm: EVAPostNormBlock,
}


def take_apart(modules: Sequence[nn.Module], prefix: int, rope: Tensor | None = None) -> list[Block]:
    """The blocks of a tower as `Block`s. Raises `InputError` for a kind of block whose parts are not known here."""
    if strangers := {type(module).__name__ for module in modules if type(module) not in KINDS}:
        raise InputError(f"transformer blocks of kind {', '.join(sorted(strangers))} have no dense reading")
    if gated := [m for m in modules if getattr(m.get_submodule("attn"), "gate", None) is not None]:
        raise InputError(f"{type(gated[0]).__name__} with a gate behind its attention has no dense reading")
    return [KINDS[type(module)](module, prefix, rope) for module in modules]


def packed_projection(attention: nn.MultiheadAttention, y: Tensor, part: int) -> Tensor:
    """Queries, keys or values (B, N, K) of an nn.MultiheadAttention, also of one whose keys have another width."""
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


def _side_by_side(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)  # B x heads x N x d -> B x N x K
