"""Fine-tune the image tower of a CLIP: choose its trainable parameters, and write the whole CLIP in open_clip's format."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP
from safetensors.torch import save

from maskclip.clip.activation import HUB_CONFIG
from maskclip.clip.adapters import ViTAdapter
from maskclip.clip.dense import DenseCLIP
from maskclip.clip.towers import DenseViT
from maskclip.errors import InputError, is_count, require
from maskclip.files import write_bytes, write_json

WEIGHTS = "open_clip_model.safetensors"
"""The file of the weights in the folder of `save_clip`."""


def vit_of(clip: DenseCLIP) -> ViTAdapter:
    """The ViT of a CLIP. Raises `InputError` for towers whose last blocks cannot be fine-tuned: a ResNet, or a ViT with a proxy."""
    if not isinstance(clip.tower, DenseViT):
        raise InputError("a ResNet has no transformer blocks to fine-tune: select a ViT, such as model@teacher=maskclip_vit16")
    if clip.tower.proxy is not None:
        raise InputError("teacher.strategy=proxyclip mixes in features of its proxy: choose a strategy without one, such as maskclip")
    return clip.tower.adapter


def native_size(clip: DenseCLIP) -> int:
    """The side in pixels of the images that the ViT of a CLIP was trained on; the shorter one if they are not square."""
    return min(vit_of(clip).tower.image_size)


def unfreeze(clip: DenseCLIP, blocks: int) -> None:
    """Make the last `blocks` transformer blocks of a CLIP trainable, and nothing else.

    Parameters that the dense features do not depend on stay frozen, such as the MLP of the last block under some strategies:
    distributed training waits for the gradient of each trainable parameter. Raises `InputError` if there are fewer blocks.
    """
    vit, side = vit_of(clip), native_size(clip)
    require(is_count(blocks) and blocks <= len(vit.blocks), "task.blocks", blocks, f"a number of blocks, at most {len(vit.blocks)}")
    parameters = [parameter.requires_grad_(True) for block in vit.blocks[-blocks:] for parameter in block.parameters()]
    features, _ = clip(next(clip.buffers()).new_zeros(1, 3, side, side))
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def save_clip(folder: Path, model: CLIP, architecture: str) -> None:
    """Write a CLIP to a folder as open_clip does for Hugging Face: weights, and a config that records the activation.

    `load_clip` reads the weights, and open_clip the folder, as "local-dir:FOLDER".
    """
    config = {
        "model_cfg": open_clip.get_model_config(architecture),
        "preprocess_cfg": {"mean": list(model.visual.image_mean), "std": list(model.visual.image_std)},
    }
    write_json(folder / HUB_CONFIG, config)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_bytes(folder / WEIGHTS, save(state, {"format": "pt"}))
