"""Adapters that give the ViTs of open_clip and timm one interface: patch embedding, blocks, pooling and projection.

The blocks are in `blocks.py`. An adapter calls the modules of its tower; it copies and changes nothing.

Shapes: B images, h x w patches, P class and register tokens before them, N = P + hw tokens, K channels, D dimensions of the
text space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import AttentionalPooler, VisionTransformer
from timm.layers import AttentionPoolLatent, HybridEmbed, PatchEmbed, RotaryEmbeddingCat
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from maskclip.clip.blocks import KEYS, UNSUPPORTED, VALUES, packed_projection
from maskclip.errors import InputError
from maskclip.functional import resample_position_embedding

Size = tuple[int, int]
"""Height and width."""


class Pool(ABC):
    """Attention pooling: an attention layer with learned queries after the last block, which returns one image embedding."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @abstractmethod
    def keys(self, tokens: Tensor) -> Tensor:
        """Keys (B, N, K) of tokens (B, N, K)."""

    @abstractmethod
    def values(self, tokens: Tensor, mlp: bool) -> Tensor:
        """O v (B, N, K): the output of the pooling if it attends to one token only. `mlp` applies the pooling's MLP, if any."""


class LatentPool(Pool):
    """timm's AttentionPoolLatent (SigLIP, PE)."""

    module: AttentionPoolLatent

    def _part(self, tokens: Tensor, index: int) -> Tensor:
        width = self.module.kv.out_features // 2
        rows = slice(index * width, (index + 1) * width)
        bias = None if self.module.kv.bias is None else self.module.kv.bias[rows]
        return F.linear(tokens, self.module.kv.weight[rows], bias)

    def keys(self, tokens: Tensor) -> Tensor:
        return self._part(tokens, 0)

    def values(self, tokens: Tensor, mlp: bool) -> Tensor:
        out = self.module.proj(self._part(tokens, 1))
        return out + self.module.mlp(self.module.norm(out)) if mlp and self.module.mlp is not None else out


class CoCaPool(Pool):
    """open_clip's AttentionalPooler (CoCa)."""

    module: AttentionalPooler

    def keys(self, tokens: Tensor) -> Tensor:
        return packed_projection(self.module.attn, self.module.ln_k(tokens), KEYS)

    def values(self, tokens: Tensor, mlp: bool) -> Tensor:
        return self.module.attn.out_proj(packed_projection(self.module.attn, self.module.ln_k(tokens), VALUES))


class ViTAdapter(nn.Module, ABC):
    """A ViT as patch embedding, blocks, optional attention pooling, and projection into the text space.

    `tower` is the image tower of open_clip, `prefix` the number P of class and register tokens.
    """

    tower: Any
    patch_size: Size
    prefix: int
    pool: Pool | None = None

    @abstractmethod
    def embed(self, image: Tensor, antialias: bool = False) -> tuple[Tensor, Size]:
        """Return the tokens (B, P + hw, K) that enter the first block, and the grid (h, w).

        `image` (B, 3, H, W) is normalised and its sides are multiples of the patch size. `antialias` is for resizing the
        position embeddings, see `resample_position_embedding`.
        """

    @property
    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks of the tower, in order."""

    def rope(self, grid: Size) -> Tensor | None:
        """Rotary position embeddings of the patches of a grid; None for towers without them."""
        return None

    def before_pool(self, tokens: Tensor) -> Tensor:
        """The input (B, N, K) of the pooling, from the tokens (B, N, K) that leave the last block."""
        return tokens

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """Features (B, N, D) in the text space, from tokens (B, N, K) that leave the last block or the pooling."""


class OpenCLIPViT(ViTAdapter):
    """open_clip's VisionTransformer: OpenAI's and LAION's CLIP, CLIPA (mean pooling), CoCa (attention pooling)."""

    prefix = 1

    def __init__(self, tower: VisionTransformer) -> None:
        super().__init__()
        self.tower = tower
        self.patch_size = tower.patch_size
        if tower.attn_pool is not None:
            if tower.attn_pool_contrastive is not None:
                raise InputError(f"a CoCa with two poolers {UNSUPPORTED}")
            self.pool = CoCaPool(tower.attn_pool)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.tower.transformer.resblocks)

    def embed(self, image: Tensor, antialias: bool = False) -> tuple[Tensor, Size]:
        tower = self.tower
        patches = tower.conv1(image)  # B x K x h x w
        grid = (patches.shape[2], patches.shape[3])
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # B x (1 + hw) x K
        x = x + resample_position_embedding(tower.positional_embedding, tower.grid_size, grid, antialias=antialias).to(x.dtype)
        return tower.ln_pre(x), grid

    def project(self, tokens: Tensor) -> Tensor:
        normed = self.tower.ln_post(tokens)
        return normed if self.tower.proj is None else normed @ self.tower.proj


class TimmViT(ViTAdapter):
    """timm's VisionTransformer or Eva inside open_clip's TimmModel: SigLIP, EVA, PE, MobileCLIP-B, ViTamin."""

    def __init__(self, tower: TimmModel) -> None:
        super().__init__()
        self.tower, trunk = tower, tower.trunk
        if type(trunk.patch_embed) not in (PatchEmbed, HybridEmbed) or trunk.global_pool not in ("token", "avg", "map"):
            raise InputError(f"a {type(trunk).__name__} with {trunk.global_pool!r} pooling {UNSUPPORTED}")
        self.trunk: Any = trunk
        self.prefix = trunk.num_prefix_tokens
        self.rotary: Any = getattr(trunk, "rope", None)
        if self.rotary is not None and not isinstance(self.rotary, RotaryEmbeddingCat):
            raise InputError(f"a tower with rotary positions of type {type(self.rotary).__name__} {UNSUPPORTED}")
        ratio = trunk.patch_embed.feat_ratio(as_scalar=False)
        self.patch_size = (ratio[0], ratio[1])
        if trunk.attn_pool is not None:
            if type(trunk.attn_pool) is not AttentionPoolLatent:
                raise InputError(f"a tower with {type(trunk.attn_pool).__name__} {UNSUPPORTED}")
            self.pool = LatentPool(trunk.attn_pool)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.trunk.blocks)

    def embed(self, image: Tensor, antialias: bool = False) -> tuple[Tensor, Size]:
        embedding = self.trunk.patch_embed
        x = embedding.backbone(image) if isinstance(embedding, HybridEmbed) else image
        x = embedding.proj(x[-1] if isinstance(x, (list, tuple)) else x)  # B x K x h x w
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        x = x if isinstance(embedding, HybridEmbed) else embedding.norm(x)
        return self.trunk.norm_pre(self._with_positions(x, grid, antialias)), grid

    def _with_positions(self, patches: Tensor, grid: Size, antialias: bool) -> Tensor:
        """Tokens (B, P + hw, K): class and register tokens, then the patches, with position embeddings added if the tower has any."""
        trunk = self.trunk
        prefix = [token.expand(len(patches), -1, -1) for token in (trunk.cls_token, getattr(trunk, "reg_token", None)) if token is not None]
        tokens = torch.cat([*prefix, patches], dim=1)
        if trunk.pos_embed is None:
            return tokens
        embedded = 0 if trunk.no_embed_class else self.prefix  # the number of prefix tokens with a position embedding
        positions = resample_position_embedding(trunk.pos_embed[0], trunk.patch_embed.grid_size, grid, embedded, antialias)
        return tokens + F.pad(positions, (0, 0, self.prefix - embedded, 0)).to(tokens.dtype)

    def rope(self, grid: Size) -> Tensor | None:
        if self.rotary is None:
            return None
        rotary = deepcopy(self.rotary)  # timm keeps the current grid in the module; other threads may use another grid
        rotary.update_feat_shape(list(grid))
        return rotary.get_embed(list(grid))

    def before_pool(self, tokens: Tensor) -> Tensor:
        return self.trunk.norm(tokens)

    def project(self, tokens: Tensor) -> Tensor:
        trunk = self.trunk
        x = tokens if self.pool is not None else trunk.norm(tokens)
        return self.tower.head(trunk.head(trunk.fc_norm(x)))


def adapt(tower: nn.Module) -> ViTAdapter:
    """The adapter for an image tower of open_clip. Raises `InputError` if the tower is not supported."""
    if type(tower) is VisionTransformer:
        return OpenCLIPViT(tower)
    if type(tower) is TimmModel and type(tower.trunk) in (TimmVisionTransformer, Eva):
        return TimmViT(tower)
    kind = type(getattr(tower, "trunk", tower)).__name__
    raise InputError(
        f"{kind} {UNSUPPORTED}: it has no last attention layer with a value at every position. Choose a model.architecture among "
        "CLIP's ViTs and ResNets, SigLIP, EVA, PE, CoCa, ViTamin and MobileCLIP-B; docs/explanation/towers.md lists all supported ones"
    )
