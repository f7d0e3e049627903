from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor

from maskclip import InputError, Vocabulary
from maskclip.prompts import TEMPLATE_SETS, cached_embeddings, embed_vocabulary, resolve_templates

TOKENIZER = open_clip.SimpleTokenizer(context_length=32)


def test_the_paper_has_85_different_sentences() -> None:
    sentences = resolve_templates("paper")
    assert len(sentences) == len(set(sentences)) == 85
    assert sentences[:80] == TEMPLATE_SETS["imagenet"]
    assert "there is a {} in the scene." in sentences


@pytest.mark.parametrize("templates", ["papers", [], ["a photo"], ["a {} and a {}"]])
def test_bad_templates(templates: object) -> None:
    with pytest.raises(InputError, match="templates"):
        resolve_templates(templates)  # type: ignore[arg-type]


def test_embedding_is_the_mean_over_sentences_and_synonyms(vit: CLIP) -> None:
    vocabulary = Vocabulary(["sofa", "cat"], prompts={"sofa": ["sofa", "couch"]})
    result = embed_vocabulary(vit, TOKENIZER, vocabulary, ["a {}.", "the {}."])
    total = torch.zeros(24)
    for sentence in ("a sofa.", "the sofa.", "a couch.", "the couch."):
        embedding = vit.encode_text(TOKENIZER([sentence]))[0].detach()
        total += embedding / embedding.norm()
    torch.testing.assert_close(result[0], total / total.norm())
    torch.testing.assert_close(result.norm(dim=1), torch.ones(2))


class Counting:
    """A tokenizer that counts its calls: none means that the cache answered."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, sentences: list[str]) -> Tensor:
        self.calls += 1
        return TOKENIZER(sentences)


def test_cache_answers_only_for_the_same_weights_words_and_templates(vit: CLIP, tmp_path: Path) -> None:
    tokenizer, words = Counting(), Vocabulary(["cat"])
    first = cached_embeddings(vit, tokenizer, words, ["a {}."], "weights", tmp_path)
    again = cached_embeddings(vit, tokenizer, words, ["a {}."], "weights", tmp_path)
    assert torch.equal(first, again) and tokenizer.calls == 1
    cached_embeddings(vit, tokenizer, words, ["a {}."], "other weights", tmp_path)
    cached_embeddings(vit, tokenizer, words, ["the {}."], "weights", tmp_path)
    cached_embeddings(vit, tokenizer, Vocabulary(["dog"]), ["a {}."], "weights", tmp_path)
    assert tokenizer.calls == 4
    assert len(list((tmp_path / "text").iterdir())) == 4
