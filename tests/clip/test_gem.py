"""The strategy "gem" against outputs of its authors' package (gem_depth=7) on refilled weights (`refill.py`)."""

from __future__ import annotations

import pytest
import torch
from open_clip.model import CLIP
from support.goldens import golden, golden_image, refilled_visual
from timm.layers import resample_abs_pos_embed

from maskclip import DenseCLIP
from maskclip.clip.towers import DenseViT
from maskclip.functional import cosine_logits


@torch.no_grad()
def test_cosines_are_those_of_the_authors_package() -> None:
    clip = DenseCLIP(refilled_visual("ViT-B-16-quickgelu"), "gem")
    image = golden_image("a")[..., :224]
    cosines = cosine_logits(clip(image)[0], golden("text_synth20_512"))[0].permute(1, 2, 0)  # 14 x 14 x 20
    assert cosines.double().sum().item() == pytest.approx(57.596629, abs=1e-4)
    torch.testing.assert_close(cosines[0, 0, :3], torch.tensor([-0.0384419, 0.06200486, 0.00755413]), atol=2e-7, rtol=0)
    torch.testing.assert_close(cosines[7, 7, :3], torch.tensor([-0.08915076, 0.02853655, 0.00050884]), atol=2e-7, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("strategy", "antialias"), [("gem", True), ("maskclip", False)])
@pytest.mark.parametrize("grid", [(3, 2), (4, 4), (6, 9)])
def test_position_embeddings_are_resized_as_the_authors_of_a_strategy_do(
    vit: CLIP, strategy: str, antialias: bool, grid: tuple[int, int]
) -> None:
    dense, tower = DenseCLIP(vit.visual, strategy).tower, vit.visual
    assert isinstance(dense, DenseViT)
    image = torch.randn(1, 3, 8 * grid[0], 8 * grid[1])
    positions = resample_abs_pos_embed(tower.positional_embedding[None], list(grid), [4, 4], antialias=antialias)
    patches = tower.conv1(image).flatten(2).transpose(1, 2)
    tokens = tower.ln_pre(torch.cat([tower.class_embedding.expand(1, 1, -1), patches], dim=1) + positions)
    for block in tower.transformer.resblocks[: -dense.depth]:
        tokens = block(tokens)
    torch.testing.assert_close(dense.tokens(image)[0], tokens, atol=1e-5, rtol=1e-5)
