from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from maskclip import InputError, Student, load_student

NETWORK: dict[str, Any] = {"encoder": "resnet18", "weights": None, "decoder_channels": 16, "encoder_depth": 3}


def student(names: tuple[str, ...] = ("cat", "dog", "sky"), background: bool = False) -> Student:
    torch.manual_seed(0)
    made = Student({"names": list(names), "background": background}, embedding_dim=8, **NETWORK)
    made.text_embeddings.copy_(F.normalize(torch.randn(len(made.vocabulary.words), 8), dim=1))
    return made.eval()


@torch.no_grad()
def test_scores_are_dot_products_with_the_text() -> None:
    model, image = student(), torch.rand(1, 3, 64, 96)
    features = model.network((image - model.mean) / model.std)
    assert features.shape == (1, 8, 16, 24)
    expected = torch.tensordot(model.text_embeddings, features[0], dims=1)[None]
    torch.testing.assert_close(model(image), expected)


@torch.no_grad()
def test_background_is_one_learned_unit_row() -> None:
    model = student(("background", "cat"), background=True)
    rows = model.classifier()
    assert rows.shape == (2, 8)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    assert torch.equal(rows[1:], model.text_embeddings)
    assert model.background is not None and model.background.requires_grad
    torch.testing.assert_close(rows[0] * model.background.norm(), model.background[0])


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(33, 50), (1, 1), (64, 64)])
def test_sizes_that_the_stride_does_not_divide(height: int, width: int) -> None:
    model = student()
    logits = model(torch.rand(1, 3, height, width))
    covered = model.covered_size(height, width)
    assert logits.shape == (1, 3, covered[0] // 4, covered[1] // 4)


def test_every_parameter_is_trained() -> None:
    """A parameter without a gradient is dead weight, and stops DDP."""
    model = student(("background", "cat"), background=True).train()
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_text_embeddings_are_not_trained() -> None:
    assert "text_embeddings" not in dict(student().named_parameters())
    assert "text_embeddings" in student().state_dict()


def test_segment_gives_the_pictures_own_size() -> None:
    assert student().segment(Image.new("RGB", (50, 33))).shape == (33, 50)
    with pytest.raises(InputError, match=r"Image.open\(path\)"):
        student().segment("photo.jpg")  # type: ignore[arg-type]


def test_unknown_encoder() -> None:
    with pytest.raises(InputError, match=r"student.encoder=resnet19"):
        Student({"names": ["cat"]}, 8, encoder="resnet19", weights=None)


def test_bad_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        load_student(tmp_path / "nowhere.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"not a checkpoint of a MaskCLIP\+ student"):
        load_student(tmp_path / "other.ckpt")
