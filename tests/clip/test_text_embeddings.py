from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors import safe_open
from torch import Tensor

from maskclip import InputError, Vocabulary
from maskclip.clip.loading import fingerprints
from maskclip.clip.text_embeddings import (
    TEMPLATE_SETS,
    cached_embeddings,
    embed_vocabulary,
    load_text,
    resolve_templates,
    save_text,
    tokenize,
)
from maskclip.clip.weights import read_state_dict

TOKENIZER = open_clip.SimpleTokenizer(context_length=32)


def test_the_paper_has_85_different_sentences() -> None:
    sentences = resolve_templates("maskclip")
    assert len(sentences) == len(set(sentences)) == 85
    assert sentences[:80] == TEMPLATE_SETS["openai"]
    assert "there is a {} in the scene." in sentences


@pytest.mark.parametrize("templates", ["papers", [], ["a photo"], ["a {} and a {}"]])
def test_bad_templates(templates: object) -> None:
    with pytest.raises(InputError, match="templates"):
        resolve_templates(templates)  # type: ignore[arg-type]


def test_embedding_is_the_mean_over_sentences_of_a_word(vit: CLIP) -> None:
    vocabulary = Vocabulary(["sofa", "cat"], prompts={"sofa": ["sofa", "couch"]})
    result = embed_vocabulary(vit, TOKENIZER, vocabulary, ["a {}.", "the {}."])
    for row, word in enumerate(("sofa", "couch", "cat")):
        total = torch.zeros(24)
        for sentence in (f"a {word}.", f"the {word}."):
            embedding = vit.encode_text(TOKENIZER([sentence]))[0].detach()
            total += embedding / embedding.norm()
        torch.testing.assert_close(result[row], total / total.norm())
    assert len(result) == 3


@pytest.mark.parametrize("word", ["rock'n'roll \"club\"", "salt, pepper", "猫", "naïve café", "{}", "{0}", "100 % wool"])
def test_odd_words_are_read_as_they_are(vit: CLIP, word: str) -> None:
    tokens = tokenize(TOKENIZER, word, ["a photo of a {}."])
    assert TOKENIZER.decode(tokens[0].tolist()).replace(" ", "").startswith("<start_of_text>aphotoof")
    assert torch.equal(tokens, TOKENIZER([f"a photo of a {word}."]))
    assert embed_vocabulary(vit, TOKENIZER, Vocabulary([word]), ["a {}."]).isfinite().all()


def test_a_name_that_would_be_cut_off_is_refused(vit: CLIP) -> None:
    fits, long = " ".join(["word"] * 24), " ".join(["word"] * 40)  # 32 tokens: start, a photo of a, ., end leave 25
    tokenize(TOKENIZER, fits, ["a photo of a {}."])
    with pytest.raises(InputError, match=r"the class name 'word word .*\.\.\.' is too long for the text tower, which reads 32 tokens"):
        embed_vocabulary(vit, TOKENIZER, Vocabulary(["cat", long]), ["a photo of a {}."])
    tokenize(TOKENIZER, " ".join(["word"] * 25), ["a photo of a {}."])
    with pytest.raises(InputError, match="too long"):
        tokenize(TOKENIZER, " ".join(["word"] * 26), ["a photo of a {}."])
    with pytest.raises(InputError, match="too long"):
        tokenize(open_clip.get_tokenizer("ViT-B-16"), "ü" * 200, TEMPLATE_SETS["maskclip"])


class Counting:
    """A tokenizer that counts its calls: none means that the cache answered."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, sentences: list[str], context_length: int | None = None) -> Tensor:
        self.calls += context_length is None
        return TOKENIZER(sentences, context_length=context_length)


def test_cache_answers_only_for_the_same_weights_words_and_templates(vit: CLIP, tmp_path: Path) -> None:
    tokenizer, words = Counting(), Vocabulary(["cat"])
    weights = fingerprints(vit)
    first = cached_embeddings(vit, tokenizer, words, ["a {}."], "A", weights, tmp_path)
    again = cached_embeddings(vit, tokenizer, words, ["a {}."], "A", weights, tmp_path)
    assert torch.equal(first, again) and tokenizer.calls == 1
    cached_embeddings(vit, tokenizer, words, ["a {}."], "B", weights, tmp_path)
    cached_embeddings(vit, tokenizer, words, ["the {}."], "A", weights, tmp_path)
    cached_embeddings(vit, tokenizer, Vocabulary(["dog"]), ["a {}."], "A", weights, tmp_path)
    with torch.no_grad():
        vit.token_embedding.weight.add_(1)
    assert fingerprints(vit)["visual_sha256"] == weights["visual_sha256"]
    cached_embeddings(vit, tokenizer, words, ["a {}."], "A", fingerprints(vit), tmp_path)
    assert tokenizer.calls == 5
    assert len(list((tmp_path / "text").iterdir())) == 5


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-8], lambda content: b"\xff" * len(content)])
def test_a_damaged_cache_is_computed_again(vit: CLIP, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    def embeddings() -> Tensor:
        return cached_embeddings(vit, TOKENIZER, Vocabulary(["cat"]), ["a {}."], "A", weights, tmp_path)

    weights = fingerprints(vit)
    first = embeddings()
    (path,) = (tmp_path / "text").iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.warns(UserWarning, match="it is a cache, so the text embeddings are computed again"):
        assert torch.equal(embeddings(), first)
    assert torch.equal(load_text(path, Vocabulary(["cat"]), "A")[0], first)
    with pytest.raises(InputError, match="not a file of text embeddings"):  # a file that the user names is not replaced
        path.write_bytes(damage(whole))
        load_text(path, Vocabulary(["cat"]), "A")


def test_text_embeddings_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_text(tmp_path / "text", torch.zeros(1, 4), Vocabulary(["cat"]), {})

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InputError, match=r"cannot read .*text \(model.text_embeddings\): Permission denied"):
        load_text(tmp_path / "text", Vocabulary(["cat"]), "A")
    with pytest.raises(InputError, match=r"cannot read .*text \(model.pretrained\): Permission denied"):
        read_state_dict(tmp_path / "text")


def test_text_embeddings_in_a_file(tmp_path: Path) -> None:
    path, rows = tmp_path / "a" / "text.safetensors", torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    words = Vocabulary(["sofa", "cat"], prompts={"sofa": ["sofa", "couch"]})
    save_text(path, rows, words, {"architecture": "RN50", "templates": ["a {}."], "visual_sha256": "0", "other": object()})
    with safe_open(path, framework="pt") as file:
        assert file.keys() == ["text_embeddings"]
        assert {key: json.loads(value) for key, value in file.metadata().items()} == {
            "architecture": "RN50",
            "templates": ["a {}."],
            "visual_sha256": "0",
            "words": ["sofa", "couch", "cat"],
        }
    found, about = load_text(path, words, "RN50", "0")
    assert torch.equal(found, rows) and about["templates"] == ["a {}."]
    assert torch.equal(load_text(path, Vocabulary(["cat", "couch"]), "RN50")[0], rows[[2, 1]])
    with pytest.raises(InputError, match=r"made with other weights of RN50"):
        load_text(path, words, "RN50", "1")
    with pytest.raises(InputError, match=r"text.safetensors lack dog"):
        load_text(path, Vocabulary(["cat", "dog"]), "RN50")
    with pytest.raises(InputError, match=r"are those of RN50, not of RN101"):
        load_text(path, words, "RN101")
    with pytest.raises(InputError, match=r"no text embeddings .*python src/embed_text.py writes them"):
        load_text(tmp_path / "none", words, "RN50")
    (tmp_path / "broken").write_bytes(b"12345678910")
    with pytest.raises(InputError, match="not a file of text embeddings"):
        load_text(tmp_path / "broken", words, "RN50")
