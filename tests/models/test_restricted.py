"""A restricted MaskCLIP predicts as one that has only these classes."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from maskclip import MaskCLIP, Vocabulary
from maskclip.inference.predict import predict, predict_image
from maskclip.inference.protocol import Protocol
from maskclip.models.restricted import RestrictedMaskCLIP


@pytest.mark.parametrize("synonyms", ["best", "probability"])
@pytest.mark.parametrize("refined", [False, True])
def test_only_these_classes_compete(tiny: MaskCLIP, synonyms: str, refined: bool) -> None:
    chosen = [2, 7, 9]
    tiny.key_smoothing, tiny.prompt_denoising = (0.8, 0.5) if refined else (None, None)
    vocabulary = tiny.vocabulary
    names = [vocabulary.names[index] for index in chosen]
    words = Vocabulary(names, prompts={name: vocabulary.prompts[name] for name in names if name in vocabulary.prompts})
    embeddings = tiny.text_embeddings[vocabulary.rows(chosen)[0]]
    alone = MaskCLIP(tiny.clip, words, embeddings, tiny.key_smoothing, tiny.prompt_denoising, tiny.logit_scale)
    image = torch.rand(3, 48, 56)
    protocol = Protocol(synonyms=synonyms, flip=True)  # type: ignore[arg-type]
    (expected,) = predict(alone, [image], protocol, soft=["confidence"])
    (result,) = predict(RestrictedMaskCLIP(tiny, chosen), [image], protocol, soft=["confidence"])
    assert torch.equal(result.labels.long(), torch.tensor(chosen)[expected.labels.long()])
    torch.testing.assert_close(result.confidence, expected.confidence)


def test_a_background_without_words_is_never_assigned(tiny: MaskCLIP) -> None:
    words = Vocabulary(["background", *tiny.vocabulary.names], prompts=tiny.vocabulary.prompts, background=True)
    model = MaskCLIP(tiny.clip, words, tiny.text_embeddings)
    image = Image.effect_noise((48, 56), 80).convert("RGB")
    labels = predict_image(RestrictedMaskCLIP(model, range(1, len(words))), image)
    assert (labels == predict_image(tiny, image) + 1).all()
