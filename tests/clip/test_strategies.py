"""The strategies against loops over heads and positions in float64, identities between them, and their cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from support.largest import Largest
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maskclip import DenseCLIP
from maskclip.clip.blocks import KEYS, QUERIES, Block, OpenCLIPBlock
from maskclip.clip.loading import create
from maskclip.clip.proxy import Proxy
from maskclip.clip.strategies import STRATEGIES, ImageContext, neighbourhood, proxy_attention, query_query, self_self

GRID = (3, 4)
HW = 12


@pytest.fixture
def block(vit: CLIP) -> Block:
    """The last block of a small ViT in float64, with weights that make attention uneven."""
    module = vit.visual.transformer.resblocks[-1].double()
    with torch.no_grad():
        module.attn.in_proj_weight.mul_(3)
    return OpenCLIPBlock(module, prefix=1)


@pytest.fixture(scope="module")
def proxy_tower() -> Proxy:
    return Proxy("vit_tiny_patch16_224", pretrained=False)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(2, 1 + HW, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def per_head(block: Block, y: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, slice]]:
    """q, k, v (N, d) of every head, from the raw weights, for tokens y (N, K) of one image."""
    attention = block.module.attn
    width, heads = attention.embed_dim, attention.num_heads
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        rows = (torch.arange(3 * width).view(3, width)[i, part] for i in range(3))
        q, k, v = (y @ attention.in_proj_weight[r].T + attention.in_proj_bias[r] for r in rows)
        yield q, k, v, part


def softmax(scores: Tensor) -> Tensor:
    weights = (scores - scores.max(1, keepdim=True).values).exp()
    return weights / weights.sum(1, keepdim=True)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def distance(i: int, j: int) -> int:
    return (i // GRID[1] - j // GRID[1]) ** 2 + (i % GRID[1] - j % GRID[1]) ** 2


def gem_weights(p: Tensor, tau: float) -> Tensor:
    p = unit(p)
    p = unit(softmax(tau * p @ p.T) @ p)
    return softmax(tau * p @ p.T)


def between(n_in: int, n_out: int) -> Tensor:
    """Linear interpolation of n_in values at n_out pixel centres, (n_out, n_in)."""
    weights = torch.zeros(n_out, n_in).double()
    for i in range(n_out):
        place = min(max((i + 0.5) * n_in / n_out - 0.5, 0), n_in - 1)
        for j in range(n_in):
            weights[i, j] = max(0.0, 1 - abs(place - j))
    return weights


def attention_of(name: str, q: Tensor, k: Tensor, v: Tensor, y: Tensor, proxy: Tensor) -> Tensor:
    """Attended values (hw, d) of one head by the equation of a strategy; q, k and v start with the class token."""
    d = q.shape[1]
    if name == "clip":
        weights = softmax(q @ k.T / d**0.5)
    elif name in ("maskclip", "value"):
        weights = torch.eye(len(q)).double()
    elif name == "sclip":
        weights = softmax(q @ q.T / d**0.5) + softmax(k @ k.T / d**0.5)
    elif name == "clearclip":
        weights = softmax(q @ q.T / d**0.5)
    elif name == "naclip":
        window = torch.zeros(1 + HW, 1 + HW).double()
        for i in range(HW):
            for j in range(HW):
                window[1 + i, 1 + j] = math.exp(-distance(i, j) / (2 * 5.0**2))
        weights = softmax(k @ k.T / d**0.5 + window)
    elif name == "gem":
        tau = y.norm(dim=1).mean().item() / d**0.5
        weights = (gem_weights(q, tau) + gem_weights(k, tau) + gem_weights(v, tau)) / 3
    elif name == "proxyclip":
        features = proxy.flatten(1).T  # HW x E
        similarity = unit(features) @ unit(features).T
        scores = 3 * (similarity - 1.2 * similarity.mean())
        scores[scores < 0] = -math.inf
        rows, columns = (between(n_in, n_out) for n_in, n_out in zip(GRID, proxy.shape[1:], strict=True))
        return softmax(scores) @ torch.kron(rows, columns) @ v[1:]
    else:
        raise AssertionError(f"add the equation of {name} to attention_of")
    return (weights @ v)[1:]


def expected_path(name: str, blocks: list[Block], tokens: Tensor, proxy: Tensor) -> Tensor:
    """Patch tokens (hw, K) of one image by the equations of a strategy; `tokens` (N, K) enter the first of `blocks`."""
    keeps = name in ("clip", "maskclip", "sclip", "gem")
    path = tokens[1:] if keeps else 0
    for block in blocks:
        module = block.module
        y = module.ln_1(tokens)
        mixed = torch.cat([attention_of(name, q, k, v, y, proxy) for q, k, v, _ in per_head(block, y)], dim=1)
        path = path + mixed @ module.attn.out_proj.weight.T + module.attn.out_proj.bias
        if name in ("clip", "maskclip", "sclip"):
            path = path + module.mlp(module.ln_2(path))
        tokens = module(tokens[None])[0]
    return path


@torch.no_grad()
@pytest.mark.parametrize(("name", "finer"), [*((name, GRID) for name in STRATEGIES), ("proxyclip", (6, 8)), ("proxyclip", (4, 35))])
def test_every_strategy_is_its_equation(name: str, finer: tuple[int, int], block: Block, tokens: Tensor) -> None:
    proxy = torch.randn(2, 7, *finer, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    path, entering = STRATEGIES[name].apply([block], tokens, ImageContext(GRID, proxy))
    for image in range(2):
        torch.testing.assert_close(path[image], expected_path(name, [block], tokens[image], proxy[image]), atol=1e-10, rtol=1e-8)
    assert torch.equal(entering, tokens)


@torch.no_grad()
def test_gem_sums_the_attention_of_several_blocks(vit: CLIP, tokens: Tensor) -> None:
    blocks: list[Block] = [OpenCLIPBlock(module.double(), prefix=1) for module in vit.visual.transformer.resblocks]
    path, entering = STRATEGIES["gem"].apply(blocks, tokens, ImageContext(GRID))
    torch.testing.assert_close(path[0], expected_path("gem", blocks, tokens[0], tokens[0]), atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(entering, blocks[1](blocks[0](tokens)))


@torch.no_grad()
def test_gem_without_iterations(block: Block, tokens: Tensor) -> None:
    y = block.norm(tokens)
    q, _, v, part = next(per_head(block, y[0]))
    tau = y[0].norm(dim=1).mean() / q.shape[1] ** 0.5
    mixed = self_self(block, y, ImageContext(GRID), iterations=0)[0, 0]
    each = [softmax(tau * unit(p) @ unit(p).T) @ v for p in next(per_head(block, y[0]))[:3]]
    torch.testing.assert_close(mixed, (sum(each) / 3)[1:])  # type: ignore[index, operator]
    assert part == slice(0, 16)


@torch.no_grad()
def test_proxyclip_with_orthogonal_proxy_features_is_value(block: Block, tokens: Tensor) -> None:
    proxy = torch.eye(HW, dtype=torch.float64).view(HW, *GRID).expand(2, HW, *GRID)
    path, _ = STRATEGIES["proxyclip"].apply([block], tokens, ImageContext(GRID, proxy))
    torch.testing.assert_close(path, STRATEGIES["value"].apply([block], tokens, ImageContext(GRID))[0])


@torch.no_grad()
def test_proxyclip_with_equal_proxy_features_is_finite(block: Block, tokens: Tensor) -> None:
    attended = proxy_attention(block, block.norm(tokens), ImageContext(GRID, torch.ones(2, 5, *GRID, dtype=torch.float64)))
    assert attended.isfinite().all()


@torch.no_grad()
def test_sclip_with_queries_that_are_keys_doubles_the_map(block: Block, tokens: Tensor) -> None:
    _same_queries_and_keys(block)
    y = block.norm(tokens)
    torch.testing.assert_close(STRATEGIES["sclip"].attention(block, y, ImageContext(GRID)), 2 * query_query(block, y, ImageContext(GRID)))


@torch.no_grad()
def test_naclip_with_an_infinite_window_and_queries_that_are_keys_is_clearclip(block: Block, tokens: Tensor) -> None:
    _same_queries_and_keys(block)
    alone = OpenCLIPBlock(block.module, prefix=0)  # with a class token the window is not one everywhere
    y = alone.norm(tokens[:, 1:])
    everywhere = neighbourhood(alone, y, ImageContext(GRID), sigma=1e9)
    torch.testing.assert_close(everywhere, query_query(alone, y, ImageContext(GRID)))


@torch.no_grad()
def test_naclip_with_a_narrow_window_is_closer_to_the_own_values(block: Block, tokens: Tensor) -> None:
    y = block.norm(tokens)
    wide, narrow = (neighbourhood(block, y, ImageContext(GRID), sigma=s) for s in (1e9, 1e-3))
    own = block.project(y, 2, patches_only=True)
    assert (narrow - own).norm() < (wide - own).norm()


def _same_queries_and_keys(block: Block) -> None:
    attention, width = block.module.attn, block.module.attn.embed_dim
    for packed in (attention.in_proj_weight, attention.in_proj_bias):
        packed[KEYS * width : (KEYS + 1) * width] = packed[QUERIES * width : (QUERIES + 1) * width]


@torch.no_grad()
@pytest.mark.parametrize("name", STRATEGIES)
def test_all_strategies_run_on_the_same_tower(vit: CLIP, name: str, proxy_tower: Proxy) -> None:
    features, keys = DenseCLIP(vit.visual, name, proxy=proxy_tower)(torch.rand(2, 3, 37, 91), with_keys=True)
    assert features.shape == (2, 24, 5, 12) and keys is not None and keys.shape == (2, 32, 5, 12)
    assert features.isfinite().all()


@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one(vit: CLIP, proxy_tower: Proxy) -> None:
    images = torch.rand(3, 3, 40, 24)
    for name in STRATEGIES:
        clip = DenseCLIP(vit.visual, name, proxy=proxy_tower)
        single = torch.cat([clip(image[None])[0] for image in images])
        torch.testing.assert_close(clip(images)[0], single, atol=1e-5, rtol=1e-4)


def minimum(name: str, grid: tuple[int, int], with_keys: bool = False) -> int:
    """The least number of floating-point operations of a strategy on ViT-B/16; a multiply-add counts as two."""
    n, width, hidden, text = grid[0] * grid[1], 768, 3072, 512
    t = n + 1
    linear = lambda rows, into: 2 * rows * width * into  # noqa: E731
    attend = lambda rows: 2 * 2 * rows * t * width  # noqa: E731 - scores and weighted values
    mlp = 2 * linear(1, hidden)
    whole = linear(t, 3 * width) + attend(t) + linear(t, width) + t * mlp
    last = {
        "clip": linear(n, width) + 2 * linear(t, width) + attend(n) + linear(n, width) + n * mlp,
        "maskclip": 2 * linear(n, width) + n * mlp,
        "value": 2 * linear(n, width),
        "sclip": 3 * linear(t, width) + 2 * attend(n) + linear(n, width) + n * mlp,
        "clearclip": 2 * linear(t, width) + attend(n) + linear(n, width),
        "naclip": 2 * linear(t, width) + attend(n) + linear(n, width),
    }[name]
    patches = 2 * n * (3 * 16 * 16) * width
    return patches + 11 * whole + last + linear(n, text) + (linear(n, width) if with_keys else 0)


@cache
def vit_b16() -> torch.nn.Module:
    """The image tower of ViT-B/16 without memory, to count operations."""
    with torch.device("meta"):
        return create("ViT-B-16", with_text=False).visual.to("meta").eval()


def operations(name: str, size: tuple[int, int], with_keys: bool = False) -> int:
    with torch.device("meta"):
        clip = DenseCLIP(vit_b16(), name).to("meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            clip(torch.empty(1, 3, *size), with_keys)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["clip", "maskclip", "value", "clearclip", "naclip", "sclip"])
def test_nothing_unused_is_computed(name: str) -> None:
    assert operations(name, (224, 320)) == minimum(name, (14, 20))


def test_keys_cost_one_projection() -> None:
    assert operations("maskclip", (224, 320), with_keys=True) == minimum("maskclip", (14, 20), with_keys=True)


def test_the_full_tower_costs_more() -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        vit_b16()(torch.empty(1, 3, 224, 224))
    patches_projected = 2 * 195 * 768 * 512  # the tower projects its class token only
    assert counter.get_total_flops() + patches_projected > operations("clip", (224, 224)) > operations("maskclip", (224, 224))


@torch.no_grad()
@pytest.mark.parametrize(
    ("patch", "native", "grid"), [(4, (10, 24), (10, 24)), (8, (5, 12), (5, 12)), (16, (2, 6), (5, 12)), (6, (7, 16), (7, 16))]
)
def test_the_finer_grid_of_proxy_and_clip_is_that_of_features_and_keys(
    vit: CLIP, patch: int, native: tuple[int, int], grid: tuple[int, int]
) -> None:
    proxy, image = Proxy("vit_tiny_patch16_224", pretrained=False), torch.rand(2, 3, 37, 91)
    proxy.tower = VisionTransformer(224, patch, embed_dim=16, depth=1, num_heads=2, num_classes=0, dynamic_img_size=True).eval()
    clip = DenseCLIP(vit.visual, "proxyclip", proxy=proxy)
    assert clip.covered_size(37, 91) == (40, 96) and proxy(image, (40, 96)).shape[2:] == native
    features, keys = clip(image, with_keys=True)
    assert features.shape == (2, 24, *grid) and keys is not None
    _, coarse = DenseCLIP(vit.visual)(image, with_keys=True)
    torch.testing.assert_close(keys, F.interpolate(coarse, grid, mode="bilinear") if grid != (5, 12) else coarse)


@torch.no_grad()
def test_a_proxy_covers_the_pixels_of_clip(proxy_tower: Proxy) -> None:
    """37 pixels are padded to 40, which is not a multiple of 16: the proxy gets 32 or 48 pixels."""
    proxy, image = proxy_tower, torch.rand(1, 3, 37, 91)
    padded = F.pad((image - proxy.mean) / proxy.std, (0, 5, 0, 3))
    expected = proxy.tower.forward_features(F.interpolate(padded, (32, 96), mode="bilinear"))[:, 1:]
    torch.testing.assert_close(proxy(image, (40, 96)).flatten(2).transpose(1, 2), expected)
    whole = (torch.zeros(1, 3, 48, 96) - proxy.mean) / proxy.std
    torch.testing.assert_close(
        proxy(torch.zeros(1, 3, 48, 96), (48, 96)).flatten(2).transpose(1, 2), proxy.tower.forward_features(whole)[:, 1:]
    )


def test_proxyclip_makes_no_matrix_of_positions_by_positions(block: Block) -> None:
    grid = (40, 60)
    tokens, proxy = torch.randn(1, 1 + 2400, 32, dtype=torch.float64), torch.randn(1, 4, *grid, dtype=torch.float64)
    with torch.no_grad(), Largest() as largest:
        proxy_attention(block, block.norm(tokens), ImageContext(grid, proxy))
    assert largest.values <= 256 * 2400
