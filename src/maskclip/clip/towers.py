"""Dense readings of open_clip's image towers: features of every position instead of one embedding of the image.

Both readers return features (B, D, h, w) in the text space and, on request, the keys (B, K, h, w) of the last attention layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from maskclip.clip.anatomy import Size, anatomy_of
from maskclip.clip.blocks import KEYS, Block, take_apart
from maskclip.clip.proxy import Proxy
from maskclip.clip.strategies import STRATEGIES, Scene
from maskclip.errors import InputError
from maskclip.functional import resample_position_embedding, resize

Dense = tuple[Tensor, Tensor | None]


def to_grid(tokens: Tensor, grid: Size) -> Tensor:
    """Patch tokens (B, hw, K) as a map (B, K, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


class ViTReader(nn.Module):
    """Dense features of a ViT by any strategy; where attention pools the tokens, by those that read its values.

    Images whose sides the patch does not divide are padded at the bottom and right with the mean colour. Features and keys
    are on the grid of patches, or on that of the `proxy` where it is finer.
    `projected_keys` passes the keys through the output projection, as the released code does.
    """

    def __init__(self, tower: nn.Module, strategy: str, proxy: Proxy | None = None, projected_keys: bool = False) -> None:
        super().__init__()
        self.anatomy = anatomy_of(tower)
        self.strategies = tuple(STRATEGIES) if self.anatomy.pool is None else ("maskclip", "value")
        _check(strategy, self.strategies, "whose last attention layer pools by learned queries")
        self.strategy = STRATEGIES[strategy]
        if self.strategy.needs_proxy and proxy is None:
            raise InputError(f"strategy {strategy!r} needs a proxy: a self-supervised ViT, such as model.proxy=vit_base_patch8_224.dino")
        self.depth = min(self.strategy.depth, len(self.anatomy.blocks))  # a tower may be shallower than a strategy is deep
        self.proxy = proxy if self.strategy.needs_proxy else None
        self.projected_keys = projected_keys
        take_apart(self.anatomy.blocks, self.anatomy.prefix)  # a kind of block that is not known is said now

    def covered_size(self, height: int, width: int) -> Size:
        """The image size, in pixels, that the grid of an image of this size covers: whole patches."""
        rows, columns = self.anatomy.patch_size
        return -(-height // rows) * rows, -(-width // columns) * columns

    def tokens(self, image: Tensor) -> tuple[Tensor, list[Block], Size]:
        """The tokens (B, P + hw, K) that enter the last `depth` blocks, those blocks, and the grid; `image` is normalised."""
        height, width = image.shape[-2:]
        rows, columns = self.covered_size(height, width)
        x, grid = self.anatomy.embed(F.pad(image, (0, columns - width, 0, rows - height)), self.strategy.antialias)
        blocks = take_apart(self.anatomy.blocks, self.anatomy.prefix, self.anatomy.rope(grid))
        for block in blocks[: -self.depth]:
            x = block(x)
        return x, blocks[-self.depth :], grid

    def forward(self, image: Tensor, pixels: Tensor, with_keys: bool) -> Dense:
        """Features and keys of `image` (B, 3, H, W), normalised; the proxy sees `pixels`, the same in 0..1."""
        tokens, blocks, grid = self.tokens(image)
        if self.anatomy.pool is not None:
            return self._pooled(blocks[-1](tokens), grid, with_keys)
        scene = self._scene(pixels, grid)
        path, entering = self.strategy.read(blocks, tokens, scene)
        finest = grid if scene.proxy is None else (scene.proxy.shape[2], scene.proxy.shape[3])
        keys = resize(to_grid(self.keys(blocks[-1], entering), grid), finest) if with_keys else None
        return to_grid(self.anatomy.project(path), finest), keys

    def _scene(self, pixels: Tensor, grid: Size) -> Scene:
        """With the features of the proxy, if there is one, on the finer of the two grids along each side."""
        if self.proxy is None:
            return Scene(grid)
        features = self.proxy(pixels, self.covered_size(*pixels.shape[-2:]))
        return Scene(grid, resize(features, (max(grid[0], features.shape[2]), max(grid[1], features.shape[3]))))

    def _pooled(self, tokens: Tensor, grid: Size, with_keys: bool) -> Dense:
        pool = self.anatomy.pool
        assert pool is not None
        seen = self.anatomy.before_pool(tokens)[:, self.anatomy.prefix :]
        features = self.anatomy.project(pool.values(seen, mlp=self.strategy.mlp))
        return to_grid(features, grid), to_grid(pool.keys(seen), grid) if with_keys else None

    def keys(self, block: Block, tokens: Tensor) -> Tensor:
        """Keys (B, hw, K) of the patches among tokens (B, N, K) that enter a block, without rotary positions.

        Key smoothing compares what is at two positions, not how far they are apart.
        """
        keys = block.heads(block.norm(block.patches(tokens)), KEYS)
        return block.merge(keys) if self.projected_keys else keys.transpose(1, 2).flatten(2)


class ResNetReader(nn.Module):
    """Dense features of open_clip's ModifiedResNet, one position for 32 x 32 pixels (the border that is left is stretched over).

    `maskclip`: c_proj(v_proj(x)) at every position, no attention, no position embedding (section 3.2); `value` is the same.
    `clip`: CLIP's attention pooling with the outputs of all positions kept, the paper's baseline.
    """

    strategies = ("clip", "maskclip", "value")
    stride = 32

    def __init__(self, tower: ModifiedResNet, strategy: str) -> None:
        super().__init__()
        _check(strategy, self.strategies, "a ResNet, which ends in attention pooling and not in transformer blocks")
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

    def forward(self, image: Tensor, pixels: Tensor, with_keys: bool) -> Dense:
        """Features and keys of `image` (B, 3, H, W), which is normalised."""
        x, grid = self.positions(image)
        pool = self.tower.attnpool
        features = self.pool(x, grid)[:, 1:] if self.strategy == "clip" else pool.c_proj(pool.v_proj(x))
        return to_grid(features, grid), to_grid(pool.k_proj(x), grid) if with_keys else None


def _check(strategy: str, known: tuple[str, ...], tower: str) -> None:
    if strategy not in STRATEGIES:
        raise InputError(f"unknown strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    if strategy not in known:
        raise InputError(f"strategy {strategy!r} has no meaning for this image tower, {tower}; choose one of {', '.join(known)}")


def make_reader(tower: nn.Module, strategy: str, proxy: Proxy | None = None, projected_keys: bool = False) -> ViTReader | ResNetReader:
    """The reader for an open_clip image tower. Raises `InputError` for another tower or a strategy it does not have."""
    if type(tower) is ModifiedResNet:
        return ResNetReader(tower, strategy)
    return ViTReader(tower, strategy, proxy, projected_keys)
