"""`src/embed_text.py`: write the text embeddings of class names to a file."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from maskclip.models.maskclip import MaskCLIP
from maskclip.programs.config import build, words_of
from maskclip.vocabulary import Vocabulary


def embed_text(cfg: DictConfig) -> None:
    """`src/embed_text.py`: compute the text embeddings of the class names and write them to a file."""
    model: MaskCLIP = build(cfg.model, classes=Vocabulary(**words_of(cfg)))
    output = Path(cfg.output)
    model.save_text(output)
    print(f"{len(model.text_embeddings)} words of {len(model.vocabulary)} classes, {model.embedding_dim} dimensions: {output}")
