"""CLIPs from names and files, and files that cannot be loaded."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from maskclip import InputError
from maskclip.clip import loading
from maskclip.clip.loading import load_clip, normalisation_of
from maskclip.clip.weights import is_torchscript, read_state_dict
from maskclip.fingerprint import weights_sha256


def test_unknown_architecture_and_tag() -> None:
    with pytest.raises(InputError, match="unknown CLIP architecture 'ViT-B-17'"):
        load_clip("ViT-B-17", None)
    with pytest.raises(InputError, match=r"model.pretrained=nowhere is neither a file nor a tag of maskclip-tiny"):
        load_clip("maskclip-tiny", "nowhere")


def test_weights_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"weights 'openai' of RN50-quickgelu are not on this machine.*model.pretrained=") as error:
        load_clip("RN50-quickgelu", "openai")
    assert "HF_HUB_OFFLINE=1" in str(error.value) and "model@teacher=maskclip_textures" in str(error.value)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"visual.conv1.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(
        InputError,
        match=r"other.safetensors for maskclip-tiny do not fit: the file lacks .* has another shape for visual.conv1",
    ):
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


def test_openais_torchscript_archive(tmp_path: Path) -> None:
    model = load_clip("maskclip-tiny", "textures")
    path = tmp_path / "archive.pt"
    inputs = {"encode_image": torch.zeros(1, 3, 96, 96), "encode_text": torch.zeros(1, 32, dtype=torch.long)}
    torch.jit.save(torch.jit.trace_module(model, inputs, check_trace=False), path)
    assert is_torchscript(path)
    with pytest.raises(InputError, match=r"trained with QuickGELU, maskclip-tiny computes GELU"):
        load_clip("maskclip-tiny", str(path))  # as all archives of OpenAI, whose format this one has
    state = read_state_dict(path)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"archive.pt is not a checkpoint that can be read safely"):
        read_state_dict(path)


def test_half_precision_and_integers_in_an_archive(tmp_path: Path) -> None:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(3, 2).half()
            self.register_buffer("count", torch.tensor([1, 2**40]))
            self.register_buffer("part", torch.arange(12.0).view(3, 4)[:, 1:3])  # not contiguous
            self.register_buffer("vocab_size", torch.tensor(7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.half()) + self.count.sum() + self.part.sum()

    module, path = Module(), tmp_path / "archive.pt"
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3)), path)
    state = read_state_dict(path)
    assert set(state) == {"inner.weight", "inner.bias", "count", "part"}
    for name, value in state.items():
        assert torch.equal(value, module.state_dict()[name]) and value.dtype == module.state_dict()[name].dtype


def test_an_archive_with_code_in_its_pickle_is_not_run(tmp_path: Path) -> None:
    path, evil, witness = tmp_path / "good.pt", tmp_path / "evil.pt", tmp_path / "witness"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)

    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(witness),))

    with zipfile.ZipFile(path) as source, zipfile.ZipFile(evil, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickle.dumps(Evil()) if name.endswith("/data.pkl") else source.read(name))
    with pytest.raises(InputError, match=r"evil.pt is not a checkpoint that can be read safely"):
        read_state_dict(evil)
    assert not witness.exists()


@pytest.mark.parametrize("broken", ["no pickle", "odd storage", "no storage", "large tensor"])
def test_damaged_archives(tmp_path: Path, broken: str) -> None:
    path, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if (broken == "no pickle" and name.endswith("data.pkl")) or (broken == "no storage" and "/data/" in name):
                continue
            if "/data/" in name and broken in ("odd storage", "large tensor"):
                content = content[:-1] if broken == "odd storage" else content[:4]
            target.writestr(name, content)
    with pytest.raises(InputError, match=r"bad.pt is not a checkpoint that can be read safely"):
        read_state_dict(bad)


@pytest.mark.parametrize("content", [b"", b"no weights here", b"PK\x03\x04 broken"])
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_files_that_are_not_checkpoints(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is not a checkpoint that can be read safely"):
        load_clip("maskclip-tiny", str(tmp_path / name))


def test_a_file_without_a_text_tower(tmp_path: Path) -> None:
    model, path = load_clip("maskclip-tiny", "textures"), tmp_path / "visual.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items() if k.startswith("visual.")}}, path)
    with pytest.raises(InputError, match="do not fit: the file lacks ln_final"):
        load_clip("maskclip-tiny", str(path))
    part = load_clip("maskclip-tiny", str(path), with_text=False)
    assert weights_sha256(part.visual) == weights_sha256(model.visual)
    assert part.visual.image_mean == model.visual.image_mean


def test_weights_of_another_activation_are_refused() -> None:
    with pytest.raises(InputError, match=r"trained with QuickGELU.*use model.architecture=ViT-B-16-quickgelu"):
        load_clip("ViT-B-16", "openai")


def test_a_file_with_unknown_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_file(load_clip("maskclip-tiny", "textures").state_dict(), path)
    monkeypatch.setattr(loading, "normalisations_of", lambda _: {((0.5,) * 3, (0.5,) * 3), ((0.4,) * 3, (0.4,) * 3)})
    with pytest.warns(UserWarning, match=r"does not record the image normalisation that maskclip-tiny was trained with"):
        load_clip("maskclip-tiny", str(path))


def test_mean_and_std_are_those_of_the_pretrained_weights() -> None:
    assert normalisation_of("ViT-B-16-SigLIP") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert normalisation_of("RN50-quickgelu")[0] == open_clip.OPENAI_DATASET_MEAN
    assert normalisation_of("MobileCLIP-B") == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_weights_from_a_file_and_their_fingerprint(tmp_path: Path) -> None:
    model = load_clip("maskclip-tiny", "textures")
    path = tmp_path / "copy.safetensors"
    save_file(model.state_dict(), path)
    copy = load_clip("maskclip-tiny", str(path))
    assert weights_sha256(copy) == weights_sha256(model)
    with torch.no_grad():
        copy.visual.proj[0, 0] += 1e-3
    assert weights_sha256(copy) != weights_sha256(model)
