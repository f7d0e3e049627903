from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image

from maskclip import DenseCLIP, InputError, MaskCLIP, Vocabulary
from maskclip.functional import REMOVED, cosine_logits, key_smoothing, prompt_denoising, vote_logits
from maskclip.prompts import embed_vocabulary


def made_of(model: CLIP, vocabulary: Vocabulary, **options: float | None) -> MaskCLIP:
    embeddings = embed_vocabulary(model, open_clip.SimpleTokenizer(context_length=32), vocabulary, ["a {}."])
    return MaskCLIP(DenseCLIP(model.visual), vocabulary, embeddings, **options)  # type: ignore[arg-type]


def test_forward_is_the_equations_in_order(any_clip: CLIP) -> None:
    words, image = Vocabulary(["cat", "dog", "sky"]), torch.rand(2, 3, 64, 96)
    features, keys = DenseCLIP(any_clip.visual)(image, with_keys=True)
    plain = made_of(any_clip, words)
    logits = cosine_logits(features, plain.text_embeddings)
    torch.testing.assert_close(plain(image), logits)
    denoised = prompt_denoising(logits, 0.4)
    torch.testing.assert_close(made_of(any_clip, words, prompt_denoising=0.4)(image), denoised)
    assert keys is not None
    torch.testing.assert_close(
        made_of(any_clip, words, prompt_denoising=0.4, key_smoothing=1.0)(image), vote_logits(key_smoothing(denoised, keys))
    )


def test_only_chosen_classes_compete(vit: CLIP) -> None:
    words, image = Vocabulary(["cat", "dog", "sky", "sea"]), torch.rand(1, 3, 32, 32)
    fewer = Vocabulary(["sea", "dog"])
    whole, part = made_of(vit, words, prompt_denoising=0.5), made_of(vit, fewer, prompt_denoising=0.5)
    torch.testing.assert_close(whole(image, torch.tensor([3, 1])), part(image))


def test_background_is_never_named(vit: CLIP) -> None:
    words = Vocabulary(["background", "cat", "dog"], background=True)
    model, image = made_of(vit, words), torch.rand(1, 3, 32, 32)
    logits = model(image)
    assert logits.shape[1] == 3 and (logits[:, 0] < REMOVED).all()
    torch.testing.assert_close(model(image, torch.tensor([1, 2])), logits[:, 1:])


def test_close_cosines_keep_their_digits_under_autocast(vit: CLIP) -> None:
    model, image = made_of(vit, Vocabulary(["cat", "dog", "sky"])), torch.rand(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(image)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_segment_gives_the_pictures_own_size(tiny: MaskCLIP) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 83, 3), dtype=np.uint8))
    labels = tiny.segment(picture)
    assert labels.shape == (50, 83) and labels.dtype == np.uint8 and labels.max() < len(tiny.vocabulary)
    assert tiny.segment(picture, short_side=96).shape == (50, 83)
    assert tiny.segment(picture.convert("L")).shape == (50, 83)


def test_a_batch_is_its_images_one_by_one(tiny: MaskCLIP) -> None:
    images = torch.rand(3, 3, 40, 56)
    torch.testing.assert_close(tiny(images), torch.cat([tiny(image[None]) for image in images]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": []}, "no class names"),
        ({"classes": ["cat", "cat"]}, "more than once"),
        ({"classes": ["cat"], "architecture": "ViT-X"}, "unknown CLIP architecture"),
        ({"classes": ["cat"], "templates": "none"}, "unknown templates"),
        ({"classes": ["cat"], "strategy": "magic"}, "unknown strategy 'magic'"),
        ({"classes": ["cat"], "key_smoothing": 1.5}, "key_smoothing=1.5 is not a probability"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MaskCLIP.build(**{"architecture": "maskclip-tiny", "pretrained": None, "cache": None, **settings})


def test_provenance_and_method(tiny: MaskCLIP) -> None:
    assert tiny.method == "maskclip"
    assert len(str(tiny.provenance["weights_sha256"])) == 64
    refined = MaskCLIP.build(["zebra"], "maskclip-tiny", "textures", "clip", "single", key_smoothing=1.0, prompt_denoising=0.5, cache=None)
    assert refined.method == "clip + PD + KS"
    assert refined.logit_scale == pytest.approx(tiny.logit_scale)
