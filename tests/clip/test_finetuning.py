"""Fine-tuning the image tower of a CLIP: its trainable parameters and the file of the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import small_clip
from open_clip.model import CLIP

from maskclip import InputError
from maskclip.clip.dense import DenseCLIP
from maskclip.clip.finetuning import WEIGHTS, native_size, save_clip, unfreeze
from maskclip.clip.loading import create, load_clip


def trainable(clip: DenseCLIP) -> set[str]:
    return {name.partition("resblocks.")[2] for name, parameter in clip.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("blocks", [1, 2])
def test_only_the_last_blocks_are_trainable(vit: CLIP, blocks: int) -> None:
    clip = DenseCLIP(vit.visual)
    unfreeze(clip, blocks)
    assert {name.split(".")[0] for name in trainable(clip)} == {"1", "2"} if blocks == 2 else {"2"}
    assert native_size(clip) == 32


def test_parameters_that_the_strategy_ignores_stay_frozen(vit: CLIP) -> None:
    """ "value" has no MLP in the last block, so distributed training must not wait for its gradient."""
    clip = DenseCLIP(vit.visual, "value")
    unfreeze(clip, 1)
    names = trainable(clip)
    assert names and not any("mlp" in name or "ln_2" in name for name in names)
    clip(torch.rand(1, 3, 40, 24))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in clip.parameters() if parameter.requires_grad)


def test_settings_that_do_not_fit_the_tower(vit: CLIP) -> None:
    with pytest.raises(InputError, match=r"task\.blocks=4: give a number of blocks, at most 3"):
        unfreeze(DenseCLIP(vit.visual), 4)
    with pytest.raises(InputError, match="a ResNet has no transformer blocks"):
        unfreeze(DenseCLIP(small_clip("resnet").visual), 1)


@pytest.mark.parametrize("architecture", ["ViT-B-32-quickgelu", "ViT-B-32"])
@pytest.mark.slow
def test_the_file_records_the_activation(architecture: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model = create(architecture)
    save_clip(tmp_path, model, architecture)
    loaded = load_clip(architecture, str(tmp_path / WEIGHTS))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert not [warning for warning in recwarn if "GELU" in str(warning.message)]
    other = architecture.removesuffix("-quickgelu") if "quick" in architecture else f"{architecture}-quickgelu"
    with pytest.raises(InputError, match=f"use model.architecture={architecture}"):
        load_clip(other, str(tmp_path / WEIGHTS))
