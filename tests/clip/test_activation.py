"""The activation of weights in files: recorded, published or unknown."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import factory
from safetensors.torch import save_file
from support.zoo import TEXT, VIT
from torch import Tensor

from maskclip import InputError
from maskclip.clip import activation
from maskclip.clip.activation import computes_quick_gelu, counterpart_of, published_activations
from maskclip.clip.loading import load_clip

CONFIG = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT}


@pytest.fixture(autouse=True)
def counterparts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add two small architectures that differ only in the activation to open_clip's.

    The whole table is replaced, because open_clip rebinds it when the tiny CLIP registers itself, and would keep the two.
    """
    small = {"small": CONFIG, "small-quickgelu": {**CONFIG, "quick_gelu": True}}
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", factory._MODEL_CONFIGS | small)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return open_clip.CLIP(**CONFIG).state_dict()


def silently(architecture: str, path: Path, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_clip(architecture, str(path), **options)


def check_loads_only_with(quick: bool, path: Path) -> None:
    """Check that the file loads into the architecture with its activation without a warning, and not into the other one."""
    right, wrong = ("small-quickgelu", "small") if quick else ("small", "small-quickgelu")
    silently(right, path)
    kinds = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    with pytest.raises(InputError, match=rf"trained with {kinds[0]}, {wrong} computes {kinds[1]}: use model.architecture={right}"):
        load_clip(wrong, str(path))


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize(
    ("architecture", "counterpart", "computes"), [("small", "small-quickgelu", "GELU"), ("small-quickgelu", "small", "QuickGELU")]
)
def test_a_file_with_unknown_activation(
    tmp_path: Path, state: dict[str, Tensor], architecture: str, counterpart: str, computes: str, with_text: bool
) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.warns(
        UserWarning, match=rf"does not record .* GELU or QuickGELU; {architecture} computes {computes}\. .*architecture={counterpart} "
    ):
        load_clip(architecture, str(tmp_path / "weights.safetensors"), with_text)


def test_architectures_without_a_counterpart_cause_no_warning(tmp_path: Path) -> None:
    save_file(load_clip("maskclip-tiny", "textures").state_dict(), tmp_path / "weights.safetensors")
    silently("maskclip-tiny", tmp_path / "weights.safetensors")
    assert counterpart_of("maskclip-tiny") is None and counterpart_of("ViT-B-16-SigLIP") is None
    assert counterpart_of("ViT-B-16") == "ViT-B-16-quickgelu" and counterpart_of("RN50-quickgelu") == "RN50"


def test_a_state_dict_of_openais_archive(tmp_path: Path, state: dict[str, Tensor]) -> None:
    settings = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(8), "vocab_size": torch.tensor(8)}
    torch.save(state | settings, tmp_path / "weights.pt")
    check_loads_only_with(True, tmp_path / "weights.pt")
    save_file(state | settings, tmp_path / "weights.safetensors")
    check_loads_only_with(True, tmp_path / "weights.safetensors")


@pytest.mark.parametrize("quick", [True, False])
def test_the_config_of_a_file_from_the_hub(tmp_path: Path, state: dict[str, Tensor], quick: bool) -> None:
    config = {**CONFIG, "quick_gelu": True} if quick else CONFIG
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(state, tmp_path / "open_clip_model.safetensors")
    check_loads_only_with(quick, tmp_path / "open_clip_model.safetensors")
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    check_loads_only_with(quick, tmp_path / "open_clip_pytorch_model.bin")
    save_file(state, tmp_path / "copy.safetensors")  # not the file that the config describes
    with pytest.warns(UserWarning, match="does not record"):
        load_clip("small", str(tmp_path / "copy.safetensors"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model_cfg": null}'])
def test_an_invalid_config_is_ignored(tmp_path: Path, state: dict[str, Tensor], content: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(content)
    save_file(state, tmp_path / "open_clip_model.safetensors")
    with pytest.warns(UserWarning, match="does not record"):
        load_clip("small", str(tmp_path / "open_clip_model.safetensors"))


@pytest.mark.parametrize("quick", [True, False])
def test_a_file_whose_sha256_is_published(tmp_path: Path, state: dict[str, Tensor], quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "renamed.pt"
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(activation, "published_activations", lambda: {digest[:8]: quick})
    check_loads_only_with(quick, path)


def test_activations_in_open_clips_list() -> None:
    quick_gelu = published_activations()
    assert quick_gelu["55e67d44"] is False  # vit_b_16-laion400m_e32
    assert quick_gelu["455df137"] is quick_gelu["d867053b"] is True  # rn50-quickgelu-yfcc15m, vit_b_32-quickgelu-laion400m_e31


def test_quick_gelu_is_that_of_the_config() -> None:
    assert computes_quick_gelu("ViT-B-16-quickgelu") and not computes_quick_gelu("ViT-B-16")
