"""What replaces attention in the last block of a ViT, so that the features of patches become useful.

A strategy consists of an attention function and of flags: whether the residual connection and the MLP stay. To add one,
write its attention function and add it to `STRATEGIES`.

Notation: X are the tokens that enter the block, y = LN1(X), q, k and v the projections of y, O the output projection, M the
MLP with its LayerNorm, d the channels of a head. Afterwards the final LayerNorm N and the projection P lead into the text space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskclip.clip.blocks import KEYS, QUERIES, VALUES, Block
from maskclip.errors import InputError
from maskclip.functional import resize


@dataclass(frozen=True)
class ImageContext:
    """Inputs of an attention function other than the tokens.

    `grid`: rows and columns (h, w) of patches. `proxy`: features (B, E, H, W) of another network for `proxyclip`, on a grid
    over the same pixels with at least as many rows and columns.
    """

    grid: tuple[int, int]
    proxy: Tensor | None = None


Attention = Callable[[Block, Tensor, ImageContext], Tensor]
"""Attended values of the patches (B, heads, hw, d), before O, from a block and its normalised tokens y (B, N, K).

With proxy features they are on the grid of the proxy, (B, heads, HW, d).
"""


def standard(block: Block, y: Tensor, context: ImageContext) -> Tensor:
    """softmax(qk'/sqrt d) v: CLIP's own attention."""
    return F.scaled_dot_product_attention(block.project(y, QUERIES, patches_only=True), block.project(y, KEYS), block.project(y, VALUES))


def identity(block: Block, y: Tensor, context: ImageContext) -> Tensor:
    """v: each position attends to itself only (MaskCLIP, section 3)."""
    return block.project(y, VALUES, patches_only=True)


def correlative(block: Block, y: Tensor, context: ImageContext) -> Tensor:
    """[softmax(qq'/sqrt d) + softmax(kk'/sqrt d)] v (SCLIP)."""
    values = block.project(y, VALUES)
    return _self_attention(block, y, QUERIES, values) + _self_attention(block, y, KEYS, values)


def query_query(block: Block, y: Tensor, context: ImageContext) -> Tensor:
    """softmax(qq'/sqrt d) v (ClearCLIP)."""
    return _self_attention(block, y, QUERIES, block.project(y, VALUES))


def neighbourhood(block: Block, y: Tensor, context: ImageContext, sigma: float = 5.0) -> Tensor:
    """softmax(kk'/sqrt d + G) v with G_ij = exp(-|p_i - p_j|^2 / 2 sigma^2), 0 for the class token (NACLIP).

    p are the positions of patches and `sigma` is in patches.
    """
    rows, columns = (_gaussian(size, sigma, y) for size in context.grid)
    window = F.pad(torch.kron(rows, columns), (block.prefix, 0))  # hw x N
    return _self_attention(block, y, KEYS, block.project(y, VALUES), window)


def self_self(block: Block, y: Tensor, context: ImageContext, iterations: int = 1) -> Tensor:
    """Mean over p in (q, k, v) of softmax(tau u u') v (GEM, section 3).

    u are the unit vectors of p. Each iteration replaces u by the unit vectors of softmax(tau u u') u. tau is the mean length
    of the rows of y, divided by sqrt d.
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


def proxy_attention(block: Block, y: Tensor, context: ImageContext, gamma: float = 3.0, beta: float = 1.2) -> Tensor:
    """softmax(m(gamma (S - beta mean S))) v with m(x < 0) = -inf (ProxyCLIP, section 3.3).

    S are the cosines between the proxy's features. The values are resized to the proxy's grid (bilinear). The diagonal is
    never masked: otherwise a position has nothing to attend to if all features are alike.
    """
    assert context.proxy is not None, "proxyclip was called without the features of its proxy"
    values = _resized(block.project(y, VALUES, patches_only=True), context.grid, (context.proxy.shape[2], context.proxy.shape[3]))
    unit = F.normalize(context.proxy.flatten(2), dim=1).transpose(1, 2)  # B x HW x E
    mean = unit.mean(dim=1).square().sum(dim=1).view(-1, 1, 1)  # of all cosines
    positions = torch.arange(unit.shape[1], device=unit.device)
    attended = []
    for rows in positions.split(256):  # HW x HW cosines of a large image would be gigabytes
        score = gamma * (unit[:, rows] @ unit.transpose(1, 2) - beta * mean)
        weights = score.masked_fill((score < 0) & (rows[:, None] != positions), -torch.inf).softmax(dim=-1)
        attended.append(weights.to(y.dtype).unsqueeze(1) @ values)
    return torch.cat(attended, dim=2)


def _resized(heads: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Values (B, heads, hw, d) on a grid (h, w), resized to another one: (B, heads, HW, d)."""
    maps = heads.transpose(2, 3).flatten(1, 2).unflatten(2, grid)  # B x heads d x h x w
    return resize(maps, size).flatten(2).unflatten(1, (heads.shape[1], -1)).transpose(2, 3)


def _self_attention(block: Block, y: Tensor, part: int, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(pp'/sqrt d + bias) v of the patches, where p are the queries, keys or values."""
    p = block.project(y, part)
    return F.scaled_dot_product_attention(p[:, :, block.prefix :], p, values, attn_mask=bias)


def _gaussian(size: int, sigma: float, like: Tensor) -> Tensor:
    positions = torch.arange(size, device=like.device, dtype=like.dtype)
    return torch.exp(-((positions[:, None] - positions) ** 2) / (2 * sigma**2))


@dataclass(frozen=True)
class Strategy:
    """A modification of the last `depth` blocks: Z = [X +] O attention, then, with `mlp`, Z + M(Z).

    `residual` keeps X. With a `depth` above 1 the blocks themselves stay unmodified, and Z sums the outputs of the attention
    function in each of them. `antialias` resizes position embeddings with antialiasing, as GEM's code does.
    """

    attention: Attention
    residual: bool
    mlp: bool
    depth: int = 1
    antialias: bool = False

    @property
    def needs_proxy(self) -> bool:
        return self.attention is proxy_attention

    def apply(self, blocks: Sequence[Block], tokens: Tensor, context: ImageContext) -> tuple[Tensor, Tensor]:
        """Return the patch tokens Z (B, hw, K), ready for N and P, and the tokens (B, N, K) that enter the very last block.

        `tokens` (B, N, K) enter the first of the last `depth` blocks, `blocks`. With proxy features Z is on the proxy's grid.
        """
        z: Tensor | None = blocks[0].patches(tokens) if self.residual else None
        for number, block in enumerate(blocks, start=1):
            attended = block.output_projection(self.attention(block, block.norm(tokens), context))
            z = attended if z is None else z + attended
            if self.mlp:
                z = z + block.mlp(z)
            if number < len(blocks):
                tokens = block(tokens)
        assert z is not None
        return z, tokens


STRATEGIES: dict[str, Strategy] = {
    "clip": Strategy(standard, residual=True, mlp=True),  # the unmodified last block, the paper's baseline
    "maskclip": Strategy(identity, residual=True, mlp=True),  # Zhou et al., ECCV 2022
    "value": Strategy(identity, residual=False, mlp=False),  # O v alone
    "sclip": Strategy(correlative, residual=True, mlp=True),  # Wang et al., ECCV 2024
    "clearclip": Strategy(query_query, residual=False, mlp=False),  # Lan et al., ECCV 2024
    "naclip": Strategy(neighbourhood, residual=False, mlp=False),  # Hajimiri et al., WACV 2025
    # Bousselham et al., CVPR 2024; their gem_depth=7 counts from 1 and excludes the end, so six blocks
    "gem": Strategy(self_self, residual=True, mlp=False, depth=6, antialias=True),
    "proxyclip": Strategy(proxy_attention, residual=False, mlp=False),  # Lan et al., ECCV 2024
}


def strategy_of(name: str) -> Strategy:
    """The strategy with this name. Raises `InputError` if there is none."""
    if name not in STRATEGIES:
        raise InputError(f"unknown strategy {name!r} (model.strategy): choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
