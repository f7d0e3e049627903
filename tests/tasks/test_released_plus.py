"""MaskCLIP+ as released: outputs of the authors' code for label assignment, classifier and loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import Tensor

from maskclip import Student
from maskclip.functional import (
    IGNORE_INDEX,
    UNLABELLED,
    cosine_logits,
    key_smoothing,
    mean_over_pixels,
    prompt_denoising,
    pseudo_labels,
    resize,
)
from maskclip.inference.upsampled import upsampled_cross_entropy

GOLDENS = np.load(ROOT / "tests" / "assets" / "goldens_plus.npz")
SIZE = (37, 45)


def golden(key: str) -> Tensor:
    return torch.from_numpy(GOLDENS[key])


def ground_truth(background: str) -> Tensor:
    return golden(f"gt_{background}")[:, 0].long()


def classes(background: str) -> Tensor:
    """The unlabelled classes; with a background, text row i is class i + 1."""
    return golden(f"unlabeled_{background}").long()


def teacher(kind: str) -> tuple[Tensor, Tensor]:
    """Features in the text space and keys, (2, 32, 5, 6) and (2, 24, 5, 6)."""
    convolve = lambda x, name: F.conv2d(x, golden(f"{name}_w")[:, :, None, None], golden(f"{name}_b"))  # noqa: E731
    if kind == "vit":
        return F.conv2d(golden("vit_v"), golden("proj")[:, :, None, None]), golden("vit_k").transpose(1, 2).unflatten(2, (5, 6))
    return convolve(convolve(golden("r50_x"), "v"), "c"), convolve(golden("r50_x"), "k")


def teacher_scores(background: str, kind: str, option: str) -> Tensor:
    """Scores of the unlabelled classes at the size of the labels, refined as the released code refines them."""
    features, keys = teacher(kind)
    rows = classes(background) - int(background == "bg")
    threshold = lambda name: float(GOLDENS[f"assign_clip_{background}_{kind}_{name}_thresh"])  # noqa: E731
    scores = cosine_logits(features, golden("text")[rows])
    if "pd" in option:
        scores = prompt_denoising(scores, threshold("pd"), keep_if_all_unsure=False)
    if option.startswith("ks"):
        scores = key_smoothing(scores, keys, threshold("ksmix") if option == "ksmix" else 1.0, unit="channels")
    return resize(scores, SIZE)


def assert_equal_except_ties(ours: Tensor, expected: Tensor, margin: Tensor) -> None:
    assert torch.equal(ours[margin > 1e-5], expected[margin > 1e-5].long())


@pytest.mark.parametrize("option", ["plain", "pd", "ks", "kspd", "ksmix"])
@pytest.mark.parametrize("kind", ["vit", "r50"])
@pytest.mark.parametrize("background", ["nobg", "bg"])
def test_labels_of_the_teacher(background: str, kind: str, option: str) -> None:
    labels, key = ground_truth(background), f"assign_clip_{background}_{kind}_{option}"
    ours = pseudo_labels(labels, teacher_scores(background, kind, option).max(dim=1), classes(background))
    assert_equal_except_ties(ours, golden(key).reshape(labels.shape), golden(f"{key}_margin"))
    assert UNLABELLED not in ours and torch.equal(ours[labels != UNLABELLED], labels[labels != UNLABELLED])


@pytest.mark.parametrize("kind", ["vit", "r50"])
@pytest.mark.parametrize("background", ["nobg", "bg"])
def test_labels_of_the_teacher_with_a_confidence_threshold(background: str, kind: str) -> None:
    """The released threshold also removes ground truth; here only pseudo labels are removed, and those pixels are ignored."""
    labels, key = ground_truth(background), f"assign_clip_{background}_{kind}_conf"
    threshold = float(GOLDENS[f"{key}_thresh"])
    ours = pseudo_labels(labels, teacher_scores(background, kind, "plain").max(dim=1), classes(background), threshold)
    expected = golden(key).reshape(labels.shape).long()
    filled, margin = labels == UNLABELLED, golden(f"{key}_margin")
    released = expected.masked_fill(expected == UNLABELLED, IGNORE_INDEX)
    assert_equal_except_ties(ours[filled], released[filled], margin[filled])
    assert (ours[filled] == IGNORE_INDEX).any() and torch.equal(ours[~filled], labels[~filled])


def student(background: str, normalise: bool = False) -> Student:
    """A student with the classifier of the goldens; its network is not used."""
    names = (["background"] if background == "bg" else []) + [f"class {i}" for i in range(9)]
    model = Student(
        {"names": names, "background": background == "bg"},
        32,
        "fpn",
        "resnet18",
        None,
        normalise=normalise,
        encoder_depth=3,
        decoder_pyramid_channels=8,
    )
    model.text_embeddings.copy_(golden("text"))
    if model.background is not None:
        model.background.data.copy_(golden("bg_embeddings"))
    return model


@pytest.mark.parametrize("normalise", [0, 1])
@pytest.mark.parametrize("background", ["nobg", "bg"])
def test_classifier(background: str, normalise: int) -> None:
    scores = student(background, bool(normalise)).classify(golden("student_feat"))
    torch.testing.assert_close(scores, golden(f"cls_seg_{background}_normfeat{normalise}"), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("normalise", [0, 1])
@pytest.mark.parametrize("background", ["nobg", "bg"])
def test_labels_of_the_student(background: str, normalise: int) -> None:
    labels, key = ground_truth(background), f"assign_self_{background}_norm{normalise}"
    scores = resize(student(background, bool(normalise)).classify(golden("student_feat")), SIZE).detach()
    ours = pseudo_labels(labels, scores[:, classes(background)].max(dim=1), classes(background))
    assert_equal_except_ties(ours, golden(key).reshape(labels.shape), golden(f"{key}_margin"))


@pytest.mark.parametrize("kind", ["vit", "r50"])
@pytest.mark.parametrize("background", ["nobg", "bg"])
@pytest.mark.parametrize("scenario", ["clip", "self", "none"])
def test_loss_and_gradient(background: str, kind: str, scenario: str) -> None:
    key, model = f"ft_{background}_{kind}_{scenario}", student(background)
    labels = golden(f"{key}_label")[:, 0].long()
    features = golden("student_feat").requires_grad_()
    loss = mean_over_pixels(upsampled_cross_entropy(model.classify(features), labels, SIZE, IGNORE_INDEX), labels, over="all")
    torch.testing.assert_close(loss.detach(), golden(f"{key}_loss_ce").reshape(()), atol=1e-6, rtol=1e-5)
    if f"{key}_grad_student" in GOLDENS:
        loss.backward()
        assert features.grad is not None
        torch.testing.assert_close(features.grad, golden(f"{key}_grad_student"), atol=1e-8, rtol=1e-4)
        if background == "bg":
            assert model.background is not None and model.background.grad is not None
            torch.testing.assert_close(model.background.grad, golden(f"{key}_grad_bg"), atol=1e-7, rtol=1e-4)
