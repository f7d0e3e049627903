"""A small student with random weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from maskclip import Student

NETWORK: dict[str, Any] = {"encoder": "resnet18", "weights": None, "decoder_channels": 16, "encoder_depth": 3}


def small_student(names: tuple[str, ...] = ("cat", "dog", "sky"), background: bool = False) -> Student:
    """A student in eval mode with 8 dimensions and random unit text embeddings; always the same weights."""
    torch.manual_seed(0)
    student = Student({"names": list(names), "background": background}, embedding_dim=8, **NETWORK)
    student.text_embeddings.copy_(F.normalize(torch.randn(len(student.vocabulary.words), 8), dim=1))
    return student.eval()
