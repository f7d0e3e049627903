"""Image towers of open_clip with dense output: text-space features of every position instead of one image embedding.

`DenseViT` and `DenseResNet` return features (B, D, h, w) in the text space and, on request, the keys (B, K, h, w) of the last
attention layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from maskclip.clip.adapters import Size, adapt
from maskclip.clip.blocks import KEYS, Block, adapt_blocks
from maskclip.clip.proxy import Proxy
from maskclip.clip.strategies import STRATEGIES, ImageContext, Strategy, strategy_of
from maskclip.errors import InputError
from maskclip.functional import resample_position_embedding, resize

Dense = tuple[Tensor, Tensor | None]
"""Features, and keys or None."""


def to_grid(tokens: Tensor, grid: Size) -> Tensor:
    """Patch tokens (B, hw, K) as a map (B, K, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


class DenseViT(nn.Module):
    """A ViT with dense features.

    Every strategy works with a class token or mean pooling. Towers with attention pooling support "maskclip" and "value",
    which use the values of the pooling. Images are padded at the bottom and right with the mean colour to whole patches.
    Features and keys are on the grid of patches, or on the grid of the `proxy` where it is finer. `projected_keys=True`
    passes keys through the output projection, as the released code does.

    Raises `InputError` if the tower or the strategy is not supported.
    """

    def __init__(self, tower: nn.Module, strategy: str, proxy: Proxy | None = None, projected_keys: bool = False) -> None:
        super().__init__()
        self.adapter = adapt(tower)
        self.strategies = tuple(STRATEGIES) if self.adapter.pool is None else ("maskclip", "value")
        self.strategy = _supported(strategy, self.strategies, "a ViT with attention pooling")
        if self.strategy.needs_proxy and proxy is None:
            raise InputError(f"strategy {strategy!r} needs a proxy, a self-supervised ViT: set model.proxy=vit_base_patch8_224.dino")
        self.depth = min(self.strategy.depth, len(self.adapter.blocks))  # the tower may have fewer blocks
        self.proxy = proxy if self.strategy.needs_proxy else None
        self.projected_keys = projected_keys
        adapt_blocks(self.adapter.blocks, self.adapter.prefix)  # raises now, not at the first image, for an unsupported block

    def covered_size(self, height: int, width: int) -> Size:
        """The size in pixels, rounded up to whole patches, that the grid of features covers for an image of this size."""
        rows, columns = self.adapter.patch_size
        return -(-height // rows) * rows, -(-width // columns) * columns

    def tokens(self, image: Tensor) -> tuple[Tensor, list[Block], Size]:
        """Return the tokens (B, P + hw, K) that enter the last `depth` blocks, those blocks, and the grid (h, w).

        `image` (B, 3, H, W) is normalised.
        """
        height, width = image.shape[-2:]
        rows, columns = self.covered_size(height, width)
        x, grid = self.adapter.embed(F.pad(image, (0, columns - width, 0, rows - height)), self.strategy.antialias)
        blocks = adapt_blocks(self.adapter.blocks, self.adapter.prefix, self.adapter.rope(grid))
        for block in blocks[: -self.depth]:
            x = block(x)
        return x, blocks[-self.depth :], grid

    def forward(self, image: Tensor, pixels: Tensor, with_keys: bool) -> Dense:
        """Features (B, D, h, w) and keys (B, K, h, w) of a normalised `image` (B, 3, H, W); `pixels` is the same image in 0..1."""
        tokens, blocks, grid = self.tokens(image)
        if self.adapter.pool is not None:
            return self._pooled(blocks[-1](tokens), grid, with_keys)
        context = self._context(pixels, grid)
        patches, entering = self.strategy.apply(blocks, tokens, context)
        finest = grid if context.proxy is None else (context.proxy.shape[2], context.proxy.shape[3])
        keys = resize(to_grid(self.keys(blocks[-1], entering), grid), finest) if with_keys else None
        return to_grid(self.adapter.project(patches), finest), keys

    def _context(self, pixels: Tensor, grid: Size) -> ImageContext:
        """The grid and, with a proxy, its features on the finer of the two grids in each direction."""
        if self.proxy is None:
            return ImageContext(grid)
        features = self.proxy(pixels, self.covered_size(*pixels.shape[-2:]))
        return ImageContext(grid, resize(features, (max(grid[0], features.shape[2]), max(grid[1], features.shape[3]))))

    def _pooled(self, tokens: Tensor, grid: Size, with_keys: bool) -> Dense:
        pool = self.adapter.pool
        assert pool is not None
        patches = self.adapter.before_pool(tokens)[:, self.adapter.prefix :]
        features = self.adapter.project(pool.values(patches, mlp=self.strategy.mlp))
        return to_grid(features, grid), to_grid(pool.keys(patches), grid) if with_keys else None

    def keys(self, block: Block, tokens: Tensor) -> Tensor:
        """Keys (B, hw, K) of the patches from the tokens (B, N, K) that enter a block.

        They have no rotary positions: key smoothing compares the content of two positions, not their distance.
        """
        keys = block.heads(block.norm(block.patches(tokens)), KEYS)
        return block.output_projection(keys) if self.projected_keys else keys.transpose(1, 2).flatten(2)


class DenseResNet(nn.Module):
    """open_clip's ModifiedResNet with dense features, one position for 32 x 32 pixels.

    "maskclip" and "value" compute c_proj(v_proj(x)) at every position, without attention and position embedding (section 3).
    "clip" keeps the outputs of CLIP's attention pooling at all positions, the paper's baseline. If 32 does not divide a side
    of the image, the grid is stretched over the whole side.
    """

    strategies = ("clip", "maskclip", "value")
    stride = 32

    def __init__(self, tower: ModifiedResNet, strategy: str) -> None:
        super().__init__()
        _supported(strategy, self.strategies, "a ResNet")
        self.tower = tower
        self.strategy = strategy

    def covered_size(self, height: int, width: int) -> Size:
        """The size in pixels, at least 32, that the grid of features covers for an image of this size."""
        return max(height, self.stride), max(width, self.stride)

    def pool(self, x: Tensor, grid: Size) -> Tensor:
        """Outputs (B, 1 + hw, D) of CLIP's attention pooling for all tokens, the mean token first, from positions (B, hw, K)."""
        pool = self.tower.attnpool
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        native = (self.tower.image_size // self.stride,) * 2
        x = x + resample_position_embedding(pool.positional_embedding, native, grid).to(x.dtype)
        q, k, v = (part(x).unflatten(2, (pool.num_heads, -1)).transpose(1, 2) for part in (pool.q_proj, pool.k_proj, pool.v_proj))
        return pool.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def positions(self, image: Tensor) -> tuple[Tensor, Size]:
        """Return the positions (B, hw, K) that enter the attention pooling, and the grid (h, w)."""
        tower, (height, width) = self.tower, image.shape[-2:]
        rows, columns = self.covered_size(height, width)
        x = tower.stem(F.pad(image, (0, columns - width, 0, rows - height)))
        x = tower.layer4(tower.layer3(tower.layer2(tower.layer1(x))))
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])

    def forward(self, image: Tensor, pixels: Tensor, with_keys: bool) -> Dense:
        """Features (B, D, h, w) and keys (B, K, h, w) of a normalised `image` (B, 3, H, W). `pixels` is not used."""
        x, grid = self.positions(image)
        pool = self.tower.attnpool
        features = self.pool(x, grid)[:, 1:] if self.strategy == "clip" else pool.c_proj(pool.v_proj(x))
        return to_grid(features, grid), to_grid(pool.k_proj(x), grid) if with_keys else None


def _supported(name: str, supported: tuple[str, ...], kind: str) -> Strategy:
    strategy = strategy_of(name)
    if name not in supported:
        raise InputError(f"the image tower, {kind}, does not support model.strategy={name}: choose one of {', '.join(supported)}")
    return strategy


def dense_tower(tower: nn.Module, strategy: str, proxy: Proxy | None = None, projected_keys: bool = False) -> DenseViT | DenseResNet:
    """Build a dense tower from an image tower of open_clip. Raises `InputError` if tower or strategy are not supported."""
    if type(tower) is ModifiedResNet:
        return DenseResNet(tower, strategy)
    return DenseViT(tower, strategy, proxy, projected_keys)
