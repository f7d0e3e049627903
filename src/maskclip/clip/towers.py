"""Dense readings of open_clip's image towers: features of every position instead of one embedding of the image.

The towers are used as they are, part by part; nothing is copied, hooked or swapped. Both readers return features
(B, D, h, w) in the text space and, on request, the keys (B, K, h, w) of the last attention layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from maskclip.clip.strategies import STRATEGIES, keys
from maskclip.errors import InputError
from maskclip.functional import resample_position_embedding

Dense = tuple[Tensor, Tensor | None]
Size = tuple[int, int]


def _to_grid(tokens: Tensor, grid: Size) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, grid)  # B x hw x K -> B x K x h x w


class ViTReader(nn.Module):
    """Dense features of an open_clip VisionTransformer with a class token.

    Images whose sides the patch does not divide are padded at the bottom and right with the mean colour.
    """

    strategies = tuple(STRATEGIES)

    def __init__(self, tower: VisionTransformer, strategy: str) -> None:
        super().__init__()
        if tower.attn_pool is not None or tower.final_ln_after_pool:
            raise InputError("this image tower pools its tokens in a way that has no value path; use a CLIP ViT with a class token")
        self.tower = tower
        self.strategy = STRATEGIES[strategy]

    def covered_size(self, height: int, width: int) -> Size:
        """The image size, in pixels, that the grid of an image of this size covers: whole patches."""
        rows, columns = self.tower.patch_size
        return -(-height // rows) * rows, -(-width // columns) * columns

    def tokens(self, image: Tensor) -> tuple[Tensor, Size]:
        """The tokens that enter the last block, (B, 1 + hw, K), and the grid (h, w); `image` (B, 3, H, W) is normalised."""
        tower, (height, width) = self.tower, image.shape[-2:]
        rows, columns = self.covered_size(height, width)
        patches = tower.conv1(F.pad(image, (0, columns - width, 0, rows - height)))  # B x K x h x w
        grid = (patches.shape[2], patches.shape[3])
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # B x (1 + hw) x K
        x = x + resample_position_embedding(tower.positional_embedding, tower.grid_size, grid).to(x.dtype)
        x = tower.ln_pre(x)
        for block in tower.transformer.resblocks[:-1]:
            x = block(x)
        return x, grid

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens that leave the last block, (B, N, K), in the text space, (B, N, D)."""
        normed = self.tower.ln_post(tokens)
        return normed if self.tower.proj is None else normed @ self.tower.proj

    def forward(self, image: Tensor, with_keys: bool) -> Dense:
        tokens, grid = self.tokens(image)
        block = self.tower.transformer.resblocks[-1]
        features = _to_grid(self.project(self.strategy(block, tokens)), grid)
        return features, _to_grid(keys(block, tokens), grid) if with_keys else None


class ResNetReader(nn.Module):
    """Dense features of open_clip's ModifiedResNet, one position for 32 x 32 pixels (the border that is left is stretched over).

    `maskclip` and `value`: c_proj(v_proj(x)) at every position, no attention, no position embedding (section 3.2).
    `clip`: CLIP's attention pooling with the outputs of all positions kept, the paper's baseline.
    """

    strategies = ("clip", "maskclip", "value")
    stride = 32

    def __init__(self, tower: ModifiedResNet, strategy: str) -> None:
        super().__init__()
        self.tower = tower
        self.strategy = strategy

    def covered_size(self, height: int, width: int) -> Size:
        """The image size, in pixels, that the grid of an image of this size covers: all of it, but 32 pixels at least."""
        return max(height, self.stride), max(width, self.stride)

    def pool(self, x: Tensor, grid: Size) -> Tensor:
        """CLIP's attention pooling of positions (B, hw, K) with all outputs: mean token first, (B, 1 + hw, D)."""
        pool = self.tower.attnpool
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        native = (self.tower.image_size // self.stride,) * 2
        x = x + resample_position_embedding(pool.positional_embedding, native, grid).to(x.dtype)
        q, k, v = (part(x).unflatten(2, (pool.num_heads, -1)).transpose(1, 2) for part in (pool.q_proj, pool.k_proj, pool.v_proj))
        return pool.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def positions(self, image: Tensor) -> tuple[Tensor, Size]:
        """What enters the attention pooling, (B, hw, K), and the grid (h, w)."""
        tower, (height, width) = self.tower, image.shape[-2:]
        rows, columns = self.covered_size(height, width)
        x = tower.stem(F.pad(image, (0, columns - width, 0, rows - height)))
        x = tower.layer4(tower.layer3(tower.layer2(tower.layer1(x))))
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])

    def forward(self, image: Tensor, with_keys: bool) -> Dense:
        x, grid = self.positions(image)
        pool = self.tower.attnpool
        features = self.pool(x, grid)[:, 1:] if self.strategy == "clip" else pool.c_proj(pool.v_proj(x))
        return _to_grid(features, grid), _to_grid(pool.k_proj(x), grid) if with_keys else None


def make_reader(tower: nn.Module, strategy: str) -> ViTReader | ResNetReader:
    """The reader for an open_clip image tower. Raises `InputError` for another tower or a strategy it does not have."""
    kinds: dict[type, type[ViTReader] | type[ResNetReader]] = {VisionTransformer: ViTReader, ModifiedResNet: ResNetReader}
    kind = kinds.get(type(tower))
    if kind is None:
        raise InputError(f"{type(tower).__name__} has no dense reading here; use a CLIP with a VisionTransformer or a ModifiedResNet")
    if strategy not in kind.strategies:
        raise InputError(f"unknown strategy {strategy!r} for this image tower; choose one of {', '.join(kind.strategies)}")
    return kind(tower, strategy)
