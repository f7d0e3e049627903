"""Small image towers with random weights, one of each kind among open_clip's architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.timm_model import TimmModel
from timm.layers import HybridEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

TEXT = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3}
TRUNK = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 24}


def randomised(tower: nn.Module) -> Any:
    """The tower with noise on all parameters: a new tower has zeros and ones, which hide whole branches."""
    generator = torch.Generator().manual_seed(0)
    for parameter in tower.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    tower.image_mean, tower.image_std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD  # type: ignore[assignment]
    return tower.eval()


def of_open_clip(**vision: Any) -> Callable[[], Any]:
    return lambda: randomised(CLIP(embed_dim=24, vision_cfg={**VIT, **vision}, text_cfg=TEXT).visual)


def of_coca() -> Any:
    vision = {**VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": False}
    return randomised(CustomTextCLIP(embed_dim=24, vision_cfg=vision, text_cfg=TEXT).visual)


def of_timm(kind: type[nn.Module], **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        tower = TimmModel("vit_tiny_patch16_224", embed_dim=24, pool="token", proj=None)
        tower.trunk = kind(**{**TRUNK, **options})
        return randomised(tower)

    return make


class Stem(nn.Sequential):
    """Two strided convolutions before the tokens, as in MobileCLIP-B and ViTamin."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 32, 3, 4, 1))


def hybrid(**options: Any) -> HybridEmbed:
    options = {name: value for name, value in options.items() if name not in ("patch_size", "bias")}
    return HybridEmbed(Stem(), patch_size=1, proj=False, **options)


ZOO: dict[str, Callable[[], Any]] = {
    "CLIP": of_open_clip(),
    "CLIP without ln_pre, mean of the patches (CLIPA)": of_open_clip(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True),
    "CLIP with LayerScale": of_open_clip(ls_init_value=0.1),
    "CLIP with oblong patches": of_open_clip(patch_size=[8, 4]),
    "CoCa": of_coca,
    "timm, class token": of_timm(VisionTransformer, global_pool="token", pre_norm=True),
    "timm, mean of the patches": of_timm(VisionTransformer, global_pool="avg", class_token=False, init_values=0.1),
    "timm, registers with positions": of_timm(VisionTransformer, global_pool="token", reg_tokens=4),
    "timm, registers without positions": of_timm(VisionTransformer, global_pool="token", reg_tokens=4, no_embed_class=True),
    "timm, queries and keys normalised": of_timm(VisionTransformer, global_pool="token", qk_norm=True),
    "timm, convolutional stem": of_timm(VisionTransformer, global_pool="avg", class_token=False, embed_layer=hybrid),
    "SigLIP": of_timm(VisionTransformer, global_pool="map", class_token=False, num_classes=0),
    "EVA01": of_timm(Eva, global_pool="token", init_values=0.1, use_rot_pos_emb=False),
    "EVA02": of_timm(
        Eva, global_pool="token", qkv_fused=False, swiglu_mlp=True, scale_mlp=True, use_rot_pos_emb=True, ref_feat_shape=(4, 4)
    ),
    "EVA02-E": of_timm(Eva, global_pool="token", use_post_norm=True, use_rot_pos_emb=True, ref_feat_shape=(4, 4)),
    "PE": of_timm(
        Eva,
        global_pool="map",
        use_rot_pos_emb=True,
        attn_type="rope",
        rope_grid_indexing="xy",
        use_pre_transformer_norm=True,
        use_fc_norm=False,
        ref_feat_shape=(4, 4),
    ),
}
POOLED = ("CoCa", "SigLIP", "PE")  # pooled by learned queries
MEAN_POOLED = ("CLIP without ln_pre, mean of the patches (CLIPA)", "timm, mean of the patches", "timm, convolutional stem")
