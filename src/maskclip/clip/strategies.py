"""What the last block of a ViT does when its patch tokens are to be read, instead of its class token.

A strategy says what takes the place of attention (its `mix`), and whether residual and MLP stay. To add one, write its
mix and enter it in `STRATEGIES`. Notation: X tokens that enter the block, y = N(X), q, k, v its projections, O the output
projection, d channels of a head, P the projection into the text space behind the final LayerNorm N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskclip.clip.blocks import KEYS, QUERIES, VALUES, Block
from maskclip.functional import resize


@dataclass(frozen=True)
class Scene:
    """What a mix may know of the image besides its tokens: the grid (h, w) of patches, and, for `proxyclip`, features of
    another network, (B, E, H, W), on a grid of at least as many rows and columns over the same pixels."""

    grid: tuple[int, int]
    proxy: Tensor | None = None


Mix = Callable[[Block, Tensor, Scene], Tensor]
"""From a block and its normed tokens y (B, N, K) to what the patches read, (B, heads, hw, d), before O; with a proxy (B, heads, HW, d)."""


def standard(block: Block, y: Tensor, scene: Scene) -> Tensor:
    """softmax(qk'/sqrt d) v: CLIP's own attention."""
    return F.scaled_dot_product_attention(block.project(y, QUERIES, patches_only=True), block.project(y, KEYS), block.project(y, VALUES))


def identity(block: Block, y: Tensor, scene: Scene) -> Tensor:
    """v: every position reads its own value and nothing else."""
    return block.project(y, VALUES, patches_only=True)


def correlative(block: Block, y: Tensor, scene: Scene) -> Tensor:
    """[softmax(qq'/sqrt d) + softmax(kk'/sqrt d)] v."""
    values = block.project(y, VALUES)
    return _with_itself(block, y, QUERIES, values) + _with_itself(block, y, KEYS, values)


def query_query(block: Block, y: Tensor, scene: Scene) -> Tensor:
    """softmax(qq'/sqrt d) v."""
    return _with_itself(block, y, QUERIES, block.project(y, VALUES))


def neighbours(block: Block, y: Tensor, scene: Scene, sigma: float = 5.0) -> Tensor:
    """softmax(kk'/sqrt d + G) v with G_ij = exp(-|p_i - p_j|^2 / 2 sigma^2) in patches, 0 for the class token."""
    rows, columns = (_gaussian(size, sigma, y) for size in scene.grid)
    window = F.pad(torch.kron(rows, columns), (block.prefix, 0))  # hw x N
    return _with_itself(block, y, KEYS, block.project(y, VALUES), window)


def self_self(block: Block, y: Tensor, scene: Scene, iterations: int = 1) -> Tensor:
    """Mean over p in q, k, v of softmax(tau u u') v with u = p^ or, iterated, the unit vectors of softmax(tau u u') u.

    p^ are unit vectors, tau = (mean length of the rows of y) / sqrt d (GEM, section 3).
    """
    values = block.project(y, VALUES)
    tau = y.norm(dim=2).mean(dim=1).view(-1, 1, 1, 1) * values.shape[-1] ** -0.5
    total = torch.zeros_like(values[:, :, block.prefix :])
    for part in (QUERIES, KEYS, VALUES):
        unit = F.normalize(block.project(y, part), dim=-1)
        for _ in range(iterations):
            unit = F.normalize(F.scaled_dot_product_attention(tau * unit, unit, unit, scale=1.0), dim=-1)
        total = total + F.scaled_dot_product_attention((tau * unit)[:, :, block.prefix :], unit, values, scale=1.0)
    return total / 3


def proxy_attention(block: Block, y: Tensor, scene: Scene, gamma: float = 3.0, beta: float = 1.2) -> Tensor:
    """softmax(m(gamma (S - beta mean S))) v, S the cosines of the proxy's features, m(x < 0) = -inf (ProxyCLIP, section 3.3).

    The values are resized to the proxy's grid, bilinear. A position that would see nothing, not even itself, sees itself:
    that happens where all of the image looks alike.
    """
    assert scene.proxy is not None, "proxyclip was called without the features of its proxy"
    values = _resized(block.project(y, VALUES, patches_only=True), scene.grid, (scene.proxy.shape[2], scene.proxy.shape[3]))
    unit = F.normalize(scene.proxy.flatten(2), dim=1).transpose(1, 2)  # B x HW x E
    mean = unit.mean(dim=1).square().sum(dim=1).view(-1, 1, 1)  # of all cosines
    numbers = torch.arange(unit.shape[1], device=unit.device)
    mixed = []
    for part in numbers.split(256):  # HW x HW cosines of a large image would be gigabytes
        score = gamma * (unit[:, part] @ unit.transpose(1, 2) - beta * mean)
        attention = score.masked_fill((score < 0) & (part[:, None] != numbers), -torch.inf).softmax(dim=-1)
        mixed.append(attention.to(y.dtype).unsqueeze(1) @ values)
    return torch.cat(mixed, dim=2)


def _resized(heads: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Values (B, heads, hw, d) of a grid at another size, (B, heads, HW, d)."""
    maps = heads.transpose(2, 3).flatten(1, 2).unflatten(2, grid)  # B x heads d x h x w
    return resize(maps, size).flatten(2).unflatten(1, (heads.shape[1], -1)).transpose(2, 3)


def _with_itself(block: Block, y: Tensor, part: int, values: Tensor, bias: Tensor | None = None) -> Tensor:
    p = block.project(y, part)
    return F.scaled_dot_product_attention(p[:, :, block.prefix :], p, values, attn_mask=bias)


def _gaussian(size: int, sigma: float, like: Tensor) -> Tensor:
    places = torch.arange(size, device=like.device, dtype=like.dtype)
    return torch.exp(-((places[:, None] - places) ** 2) / (2 * sigma**2))


@dataclass(frozen=True)
class Strategy:
    """A reading of the last `depth` blocks: Z = [X +] O mix, and, with `mlp`, Z + M(Z).

    With `depth` above 1 the blocks compute what CLIP's do, and Z gathers what the mix reads in each of them. `antialias`: position
    embeddings are resized with antialiasing, as in the authors' code.
    """

    mix: Mix
    residual: bool
    mlp: bool
    depth: int = 1
    antialias: bool = False
    source: str = ""

    @property
    def needs_proxy(self) -> bool:
        return self.mix is proxy_attention

    def read(self, blocks: Sequence[Block], tokens: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """Patch tokens (B, hw, K), ready for N and P, from the tokens (B, N, K) that enter the last `depth` blocks.

        With a proxy they are on its grid, (B, HW, K).
        Besides, the tokens (B, N, K) that enter the very last of them.
        """
        path: Tensor | None = blocks[0].patches(tokens) if self.residual else None
        for number, block in enumerate(blocks, start=1):
            mixed = block.merge(self.mix(block, block.norm(tokens), scene))
            path = mixed if path is None else path + mixed
            if self.mlp:
                path = path + block.mlp(path)
            if number < len(blocks):
                tokens = block(tokens)
        assert path is not None
        return path, tokens


STRATEGIES: dict[str, Strategy] = {
    "clip": Strategy(standard, residual=True, mlp=True, source="the unmodified last block, the paper's baseline"),
    "maskclip": Strategy(identity, residual=True, mlp=True, source="Zhou et al., ECCV 2022, section 3.2"),
    "value": Strategy(identity, residual=False, mlp=False, source="the values alone"),
    "sclip": Strategy(correlative, residual=True, mlp=True, source="Wang et al., ECCV 2024"),
    "clearclip": Strategy(query_query, residual=False, mlp=False, source="Lan et al., ECCV 2024"),
    "naclip": Strategy(neighbours, residual=False, mlp=False, source="Hajimiri et al., WACV 2025"),
    # the authors' package counts blocks from 1 up to gem_depth=7, exclusive
    "gem": Strategy(self_self, residual=True, mlp=False, depth=6, antialias=True, source="Bousselham et al., CVPR 2024"),
    "proxyclip": Strategy(proxy_attention, residual=False, mlp=False, source="Lan et al., ECCV 2024"),
}
