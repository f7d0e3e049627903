from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskclip import InputError
from maskclip.clip import load_clip, weights_sha256


def test_unknown_architecture_and_tag() -> None:
    with pytest.raises(InputError, match="unknown CLIP architecture 'ViT-B-17'"):
        load_clip("ViT-B-17", None)
    with pytest.raises(InputError, match="has no weights 'nowhere'"):
        load_clip("maskclip-tiny", "nowhere")


def test_weights_out_of_reach_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"weights 'openai' of RN50-quickgelu are not on this machine.*model.pretrained="):
        load_clip("RN50-quickgelu", "openai")


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"visual.conv1.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(InputError, match=r"other.safetensors do not fit maskclip-tiny"):
        load_clip("maskclip-tiny", str(path))


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    path, witness = tmp_path / "evil.pt", tmp_path / "witness"

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (witness,))

    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(InputError, match=r"evil.pt is not a checkpoint that can be read safely"):
        load_clip("maskclip-tiny", str(path))
    assert not witness.exists()


def test_weights_from_a_file_and_their_fingerprint(tmp_path: Path) -> None:
    model = load_clip("maskclip-tiny", "textures")
    path = tmp_path / "copy.safetensors"
    save_file(model.state_dict(), path)
    copy = load_clip("maskclip-tiny", str(path))
    assert weights_sha256(copy) == weights_sha256(model)
    with torch.no_grad():
        copy.visual.proj[0, 0] += 1e-3
    assert weights_sha256(copy) != weights_sha256(model)
