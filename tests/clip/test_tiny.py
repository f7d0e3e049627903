"""The weights that ship with the project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from maskclip import MaskCLIP
from maskclip.clip import tiny
from maskclip.clip.loading import load_clip
from maskclip.textures.scenes import CLASSES, caption


def test_the_asset_is_small() -> None:
    assert sum(path.stat().st_size for path in tiny.ASSETS.iterdir()) < 5_000_000


def test_every_word_of_the_captions_was_trained() -> None:
    model, tokenizer = load_clip("maskclip-tiny", "textures"), open_clip.get_tokenizer("maskclip-tiny")
    rng = np.random.default_rng(0)
    sentences = [caption(rng, list(rng.choice(len(CLASSES), 3, replace=False))) for _ in range(300)]
    assert not tiny.unknown_words(model, tokenizer(sentences)).any()
    assert tiny.unknown_words(model, tokenizer(["a photo of a zebra.", "a photo of a giraffe."])).tolist() == [False, True]


def test_saving_and_loading_gives_the_same_weights(tmp_path: Path) -> None:
    state = tiny.load_weights()
    ids = state["token_embedding.weight"].abs().sum(1).nonzero().flatten()
    tiny.save_weights(state, ids, tmp_path / "tiny.safetensors", {"seed": "0"})
    again = tiny.load_weights(tmp_path / "tiny.safetensors")
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_unknown_words_cause_a_warning() -> None:
    with pytest.warns(UserWarning, match="without the words giraffe"):
        MaskCLIP.build(["zebra", "giraffe"], "maskclip-tiny", "textures", templates="simple", cache=None)
