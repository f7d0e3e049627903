"""Each kind of tower against the forward pass of its own library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from support.zoo import MEAN_POOLED, POOLED, TRUNK, ZOO, of_timm
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor

from maskclip import DenseCLIP, InputError
from maskclip.clip.blocks import KEYS, QUERIES, VALUES
from maskclip.clip.towers import DenseViT


def vit_of(clip: DenseCLIP) -> DenseViT:
    assert isinstance(clip.tower, DenseViT)
    return clip.tower


@cache
def tower_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    tower: torch.nn.Module = ZOO[kind]()
    return tower


def clip_of(kind: str, strategy: str = "maskclip") -> DenseCLIP:
    return DenseCLIP(tower_of(kind), strategy)


def reassembled(block, tokens: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """The output of a block, composed of its parts, with explicit attention."""
    y = block.norm(tokens)
    q, k, v = (block.project(y, part) for part in (QUERIES, KEYS, VALUES))
    z = tokens + block.output_projection((q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v)
    return z + block.mlp(z)


@torch.no_grad()
@pytest.mark.parametrize("kind", ZOO)
def test_tokens_blocks_and_pooling_are_the_towers_own(kind: str) -> None:
    clip = clip_of(kind)
    vit, image = vit_of(clip), torch.rand(2, 3, 32, 32)
    tower = vit.adapter.tower
    tokens, blocks, _ = vit.tokens((image - clip.mean) / clip.std)
    for block in blocks:
        tokens = block(tokens)
    if hasattr(tower, "trunk"):
        pooled = tower.head(tower.trunk.forward_head(tower.trunk.norm(tokens)))
    else:
        pooled = tower._pool(tokens)[0] @ tower.proj
    if kind == "CoCa":
        pooled = pooled if pooled.ndim == 2 else pooled[:, 0]
    torch.testing.assert_close(pooled, tower((image - clip.mean) / clip.std), atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ZOO)
def test_a_block_is_the_sum_of_its_parts(kind: str) -> None:
    clip = clip_of(kind)
    tokens, (block,), _ = vit_of(clip).tokens(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(reassembled(block, tokens), block(tokens), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in ZOO if kind not in (*POOLED, *MEAN_POOLED)])
def test_the_class_token_is_projected_as_the_tower_does(kind: str) -> None:
    clip = clip_of(kind)
    vit, image = vit_of(clip), torch.randn(2, 3, 32, 32)
    tokens, (block,), _ = vit.tokens(image)
    torch.testing.assert_close(vit.adapter.project(block(tokens))[:, 0], vit.adapter.tower(image), atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", [*POOLED, *MEAN_POOLED])
def test_a_single_token_has_the_embedding_of_the_tower(kind: str) -> None:
    """A single token attends to itself only, so its value is the output of the attention."""
    clip = clip_of(kind)
    adapter = vit_of(clip).adapter
    token = torch.randn(2, 1, 32)
    if adapter.pool is None:
        expected, ours = adapter.project(token.mean(1, keepdim=True)), adapter.project(token)
    elif hasattr(adapter.tower, "trunk"):
        trunk = adapter.tower.trunk
        expected = adapter.tower.head(trunk.head(trunk.fc_norm(trunk.attn_pool(token))))[:, None]
        ours = adapter.project(adapter.pool.values(token, mlp=True))
    else:
        expected = adapter.tower.ln_post(adapter.tower.attn_pool(token))[:, :1] @ adapter.tower.proj
        ours = adapter.project(adapter.pool.values(token, mlp=True))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize("size", [(1, 1), (9, 8), (37, 91)])
def test_any_kind_at_any_size(kind: str, size: tuple[int, int]) -> None:
    clip = clip_of(kind)
    features, keys = clip(torch.rand(1, 3, *size), with_keys=True)
    covered, patch = clip.covered_size(*size), vit_of(clip).adapter.patch_size
    assert keys is not None and keys.shape[2:] == features.shape[2:] == (covered[0] // patch[0], covered[1] // patch[1])
    assert features.shape[:2] == (1, 32 if kind == "SigLIP" else 24) and features.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in ZOO if kind not in POOLED])
def test_keys_are_those_of_the_last_block_with_every_strategy(kind: str) -> None:
    image = torch.rand(1, 3, 32, 32)
    _, expected = clip_of(kind)(image, with_keys=True)
    for strategy in ("clip", "sclip", "naclip", "gem"):
        _, keys = clip_of(kind, strategy)(image, with_keys=True)
        torch.testing.assert_close(keys, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", POOLED)
def test_strategies_of_pooled_towers(kind: str) -> None:
    with pytest.raises(InputError, match=r"attention pooling, does not support model.strategy=naclip: choose one of maskclip, value"):
        clip_of(kind, "naclip")


def test_unsupported_towers() -> None:
    with pytest.raises(InputError, match="Conv2d is not supported as an image tower"):
        DenseCLIP(torch.nn.Conv2d(3, 8, 1))
    with pytest.raises(InputError, match="blocks of type ParallelScalingBlock is not supported"):
        DenseCLIP(of_timm(VisionTransformer, block_fn=ParallelScalingBlock)())
    with pytest.raises(InputError, match="rotary positions of type RotaryEmbeddingMixed is not supported"):
        DenseCLIP(of_timm(Eva, rope_type="mixed", use_rot_pos_emb=True, global_pool="token")())


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 48), (48, 64)])
def test_rotary_positions_of_another_grid(size: tuple[int, int]) -> None:
    """Images of changing shapes, against timm's own handling."""
    options = {"global_pool": "token", "qkv_fused": False, "use_abs_pos_emb": False, "use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}
    tower = of_timm(Eva, **options)()
    vit = vit_of(DenseCLIP(tower, "clip"))
    whole = Eva(**{**TRUNK, **options}, dynamic_img_size=True).eval()
    whole.load_state_dict(tower.trunk.state_dict())
    for shape in (size, (32, 32), size):
        image = torch.randn(1, 3, *shape)
        tokens, (block,), _ = vit.tokens(image)
        torch.testing.assert_close(tower.trunk.norm(block(tokens)), whole.forward_features(image), atol=1e-5, rtol=1e-4)


def in_threads(call: Callable[[int], bool], calls: int) -> bool:
    """Whether all calls return true in threads that switch within a call."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            return all(pool.map(call, range(calls)))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("kind", ["EVA02", "EVA02-E", "PE"])
def test_rotary_positions_are_those_of_the_own_thread(kind: str) -> None:
    adapter = vit_of(clip_of(kind)).adapter
    grids = [(4, 4), (2, 6), (6, 2), (3, 4), (12, 1), (1, 12)]
    expected = [adapter.rope(grid) for grid in grids]
    assert in_threads(lambda number: torch.equal(adapter.rope(grids[number % 6]), expected[number % 6]), calls=1000)


@pytest.mark.parametrize("kind", ZOO)
def test_features_do_not_depend_on_other_threads(kind: str) -> None:
    clip = clip_of(kind)
    images = [torch.rand(1, 3, 8 * rows, 8 * columns) for rows, columns in ((4, 4), (2, 6), (6, 2), (3, 4), (12, 1), (1, 12))]
    expected = [clip(image)[0] for image in images]
    assert in_threads(lambda number: torch.allclose(clip(images[number % 6])[0], expected[number % 6], atol=1e-5), calls=60)
