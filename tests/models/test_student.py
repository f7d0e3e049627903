"""Students: classifier, sizes, saving and loading."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.students import NETWORK, small_student

from maskclip import InputError, Student, load_student


@torch.no_grad()
def test_logits_are_dot_products_with_the_text_embeddings() -> None:
    model, image = small_student(), torch.rand(1, 3, 64, 96)
    features = model.network((image - model.mean) / model.std)
    assert features.shape == (1, 8, 16, 24) and torch.equal(features, model.features(image))
    expected = torch.tensordot(model.text_embeddings, features[0], dims=1)[None]
    torch.testing.assert_close(model(image), expected)


@torch.no_grad()
def test_background_is_one_learned_unit_row() -> None:
    model = small_student(("background", "cat"), background=True)
    rows = model.classifier()
    assert rows.shape == (2, 8)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    assert torch.equal(rows[1:], model.text_embeddings)
    assert model.background is not None and model.background.requires_grad
    torch.testing.assert_close(rows[0] * model.background.norm(), model.background[0])


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(33, 50), (1, 1), (64, 64)])
def test_sizes_that_the_stride_does_not_divide(height: int, width: int) -> None:
    model = small_student()
    logits = model(torch.rand(1, 3, height, width))
    covered = model.covered_size(height, width)
    assert logits.shape == (1, 3, covered[0] // 4, covered[1] // 4)


def test_every_parameter_is_trained() -> None:
    """DDP does not accept parameters without a gradient."""
    model = small_student(("background", "cat"), background=True).train()
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_text_embeddings_are_not_trained() -> None:
    assert "text_embeddings" not in dict(small_student().named_parameters())
    assert "text_embeddings" in small_student().state_dict()


def test_segment_returns_the_size_of_the_image() -> None:
    assert small_student().segment(Image.new("RGB", (50, 33))).shape == (33, 50)
    with pytest.raises(InputError, match=r"Image.open\(path\)"):
        small_student().segment("photo.jpg")  # type: ignore[arg-type]


@torch.no_grad()
def test_normalised_features_and_temperature() -> None:
    model = small_student()
    features = torch.randn(1, 8, 3, 4)
    plain = model.classify(features)
    model.temperature = 20.0
    torch.testing.assert_close(model.classify(features), 20 * plain)
    model.normalise = True
    cosines = torch.einsum("bdhw,cd->bchw", F.normalize(features, dim=1), model.text_embeddings)
    torch.testing.assert_close(model.classify(features), 20 * cosines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "resnet19"}, r"student.encoder=resnet19"),
        ({"arch": "deeplabv4"}, r"student.arch=deeplabv4: choose one of deeplabv2, deeplabv3plus"),
        ({"arch": "deeplabv2", "encoder": "resnet18", "decoder_channels": 3}, r"unknown options: decoder_channels"),
        ({"arch": "unetplusplus", "encoder": "mit_b0"}, r"student.arch=unetplusplus with encoder=mit_b0 cannot be built"),
        ({"arch": "fpn", "encoder": "resnet18", "rates": 3}, r"student.arch=fpn with encoder=resnet18 cannot be built"),
        ({"arch": "fpn", "encoder": "tu-resnet19"}, r"student.arch=fpn with encoder=tu-resnet19 cannot be built: Unknown model"),
        *(
            ({"arch": "upernet_vit", "encoder": encoder}, rf"encoder={encoder} cannot be built: it needs a plain ViT of timm")
            for encoder in ("mit_b0", "tu-resnet18", "tu-swin_tiny_patch4_window7_224")
        ),
        ({"arch": "upernet_vit", "encoder": "tu-test_vit", "patch_size": 0}, r"student.patch_size=0: give the side of a patch"),
        ({"arch": "upernet_vit", "encoder": "tu-test_vit", "decoder_channels": 20}, r"student.decoder_channels=20: give a multiple of 8"),
    ],
)
def test_networks_that_cannot_be_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Student({"names": ["cat"]}, 8, weights=None, **options)


def test_saving_and_loading_a_student(tmp_path: Path) -> None:
    names = ("background", "cat", "dog")
    torch.manual_seed(0)
    words = {"names": list(names), "prompts": {"cat": ["cat", "kitten"]}, "unseen": ["dog"], "background": True}
    model = Student(words, 8, temperature=3.0, normalise=True, provenance={"method": "maskclip+"}, **NETWORK).eval()
    model.text_embeddings.copy_(F.normalize(torch.randn(3, 8), dim=1))
    model.save(tmp_path / "s")
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["student.json", "student.safetensors"]
    again = load_student(tmp_path / "s")
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(again(image), model(image)) and not again.training
    assert again.vocabulary.words == model.vocabulary.words and again.vocabulary.unseen == ["dog"]
    assert again.vocabulary.colours == model.vocabulary.colours
    assert (again.method, again.weights_sha256) == ("maskclip+", model.weights_sha256)
    about = json.loads((tmp_path / "s" / "student.json").read_text())
    assert about["preprocessing"]["mean"] == [0.485, 0.456, 0.406] and about["student"]["arch"] == "deeplabv3plus"
    again.save(tmp_path / "t")
    assert (tmp_path / "t" / "student.safetensors").read_bytes() == (tmp_path / "s" / "student.safetensors").read_bytes()
    (tmp_path / "s" / "student.json").write_text("{}")
    with pytest.raises(InputError, match=r"not a checkpoint of a MaskCLIP\+ student"):
        load_student(tmp_path / "s")


@torch.no_grad()
@pytest.mark.parametrize(
    ("network", "multiple"),
    [
        ({"arch": "segformer", "encoder": "mit_b0"}, 32),
        ({"arch": "upernet_vit", "encoder": "tu-test_vit", "decoder_channels": 32}, 32),
        ({"arch": "upernet_vit", "encoder": "tu-test_vit", "patch_size": 14, "decoder_channels": 32}, 28),
    ],
)
def test_transformers_accept_any_size_and_load_as_saved(network: dict[str, Any], multiple: int, tmp_path: Path) -> None:
    model = Student({"names": ["cat", "dog"]}, 8, weights=None, **network).eval()
    model.text_embeddings.copy_(F.normalize(torch.randn(2, 8), dim=1))
    model.save(tmp_path)
    again, image = load_student(tmp_path), torch.rand(1, 3, 33, 70)
    assert torch.equal(again(image), model(image)) and torch.equal(again.mean, model.mean)
    rows, columns = model.covered_size(33, 70)
    assert (rows, columns) == (-(-33 // multiple) * multiple, -(-70 // multiple) * multiple)
    assert model(image).shape[2] * columns == model(image).shape[3] * rows
    assert again.segment(Image.new("RGB", (70, 33))).shape == (33, 70)
    preprocessing = json.loads((tmp_path / "student.json").read_text())["preprocessing"]
    assert preprocessing["multiple"] == multiple and preprocessing["std"] == pytest.approx(model.std.flatten().tolist())


def test_bad_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        load_student(tmp_path / "nowhere.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"not a checkpoint of a MaskCLIP\+ student"):
        load_student(tmp_path / "other.ckpt")


def test_files_of_two_exports_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed between the two renames of an export leaves the weights of one and the classes of another."""
    small_student(("cat", "dog", "sky")).save(tmp_path)
    newer = small_student(("sky", "cat", "dog"))
    newer.text_embeddings.copy_(newer.text_embeddings.roll(1, 0))
    real, remaining = Path.replace, [1]

    def killed(path: Path, target: Path) -> Path:
        if not remaining[0]:
            raise KeyboardInterrupt
        remaining[0] -= 1
        return real(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        newer.save(tmp_path)
    with pytest.raises(InputError, match=r"student.safetensors and student.json belong to two different exports .*export.py"):
        load_student(tmp_path)
    newer.save(tmp_path)
    assert load_student(tmp_path).vocabulary.names == ["sky", "cat", "dog"]


def test_messages_about_unreadable_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_student().save(tmp_path / "s")
    (tmp_path / "s" / "student.safetensors").unlink()
    with pytest.raises(InputError, match=r"cannot read .*student.safetensors \(model.checkpoint\): No such file"):
        load_student(tmp_path / "s")
    small_student().save(tmp_path / "s")
    about = json.loads((tmp_path / "s" / "student.json").read_text())
    (tmp_path / "s" / "student.json").write_text(json.dumps(about | {"student": about["student"] | {"encoder": "resnet19"}}))
    with pytest.raises(InputError, match=r"^student.encoder=resnet19"):
        load_student(tmp_path / "s")

    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    small_student().save(tmp_path / "s")
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InputError, match=r"cannot read .*student.safetensors \(model.checkpoint\): Permission denied"):
        load_student(tmp_path / "s")
