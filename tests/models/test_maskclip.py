"""MaskCLIP: forward pass, background, settings and provenance."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image
from support.zoo import TEXT, VIT

from maskclip import DenseCLIP, InputError, MaskCLIP, Released, Vocabulary
from maskclip.clip.loading import load_clip
from maskclip.clip.text_embeddings import embed_vocabulary
from maskclip.functional import REMOVED, cosine_logits, key_smoothing, prompt_denoising, vote_logits
from maskclip.inference.labels import decide
from maskclip.inference.predict import rule_of
from maskclip.models.released import alter_tower


def maskclip_of(model: CLIP, vocabulary: Vocabulary, **options: float | Released | None) -> MaskCLIP:
    embeddings = embed_vocabulary(model, open_clip.SimpleTokenizer(context_length=32), vocabulary, ["a {}."])
    return MaskCLIP(DenseCLIP(model.visual), vocabulary, embeddings, **options)  # type: ignore[arg-type]


def test_forward_is_the_equations_in_order(any_clip: CLIP) -> None:
    words, image = Vocabulary(["cat", "dog", "sky"]), torch.rand(2, 3, 64, 96)
    features, keys = DenseCLIP(any_clip.visual)(image, with_keys=True)
    plain = maskclip_of(any_clip, words)
    logits = cosine_logits(features, plain.text_embeddings)
    torch.testing.assert_close(plain(image), logits)
    denoised = prompt_denoising(logits, 0.4)
    torch.testing.assert_close(maskclip_of(any_clip, words, prompt_denoising=0.4)(image), denoised)
    assert keys is not None
    torch.testing.assert_close(
        maskclip_of(any_clip, words, prompt_denoising=0.4, key_smoothing=1.0)(image), vote_logits(key_smoothing(denoised, keys))
    )


def test_only_chosen_classes_compete(vit: CLIP) -> None:
    words, image = Vocabulary(["cat", "dog", "sky", "sea"]), torch.rand(1, 3, 32, 32)
    fewer = Vocabulary(["sea", "dog"])
    whole, part = maskclip_of(vit, words, prompt_denoising=0.5), maskclip_of(vit, fewer, prompt_denoising=0.5)
    torch.testing.assert_close(whole(image, torch.tensor([3, 1])), part(image))


def test_background_is_never_predicted(vit: CLIP) -> None:
    words = Vocabulary(["background", "cat", "dog"], background=True)
    model, image = maskclip_of(vit, words), torch.rand(1, 3, 32, 32)
    logits = model(image)
    assert logits.shape[1] == 3 and (logits[:, 0] < REMOVED).all()
    torch.testing.assert_close(model(image, torch.tensor([1, 2])), logits[:, 1:])


def test_a_class_has_the_logit_of_its_best_word(vit: CLIP) -> None:
    image = torch.rand(1, 3, 40, 24)
    words = Vocabulary(["background", "sofa", "cat"], prompts={"sofa": ["sofa", "couch"]}, background=True)
    flat = maskclip_of(vit, Vocabulary(["sofa", "couch", "cat"]))(image)
    expected = torch.stack([flat[:, :2].amax(1), flat[:, 2]], dim=1)
    torch.testing.assert_close(maskclip_of(vit, words)(image)[:, 1:], expected)
    torch.testing.assert_close(maskclip_of(vit, words)(image, torch.tensor([2, 1])), expected.flip(1))


def test_background_by_a_threshold(vit: CLIP) -> None:
    words = Vocabulary(["background", "cat", "dog"], background=True)
    model = maskclip_of(vit, words, background_threshold=0.7)
    probabilities = torch.tensor([[0.0, 0.71, 0.29], [0.0, 0.3, 0.7001], [0.0, 0.6, 0.4], [0.0, 0.5, 0.5]])
    logits = probabilities.log().clamp(min=-300).T[None, :, None, :] / 100
    assert decide(logits.clone(), rule_of(model))["labels"].tolist() == [[[1, 2, 0, 0]]]
    assert decide(logits.clone(), rule_of(maskclip_of(vit, words)))["labels"].tolist() == [[[1, 2, 1, 1]]]
    softened = maskclip_of(vit, words, background_threshold=0.7, released=Released(softmax=True))
    assert decide(logits.clone(), rule_of(softened))["labels"].tolist() == [[[1, 2, 0, 0]]]
    with pytest.raises(InputError, match="needs a background class"):
        maskclip_of(vit, Vocabulary(["cat"]), background_threshold=0.7)
    with pytest.raises(InputError, match="needs two classes with words"):
        maskclip_of(vit, Vocabulary(["background", "cat"], background=True), background_threshold=0.7)
    with pytest.raises(InputError, match=r"model.released.raw_votes=true has none"):
        maskclip_of(vit, words, background_threshold=0.7, key_smoothing=1.0, released=Released(raw_votes=True))


def test_background_with_words_competes(vit: CLIP) -> None:
    words = Vocabulary(["background", "cat"], prompts={"background": ["wall", "sky"]}, background=True)
    image = torch.rand(1, 3, 32, 32)
    flat = maskclip_of(vit, Vocabulary(["wall", "sky", "cat"]))(image)
    torch.testing.assert_close(maskclip_of(vit, words)(image), torch.stack([flat[:, :2].amax(1), flat[:, 2]], dim=1))


@pytest.mark.parametrize("count", [1, 1000])
def test_few_and_many_classes(vit: CLIP, count: int) -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(count, 24), dim=1)
    model = MaskCLIP(DenseCLIP(vit.visual), Vocabulary([f"word {i}" for i in range(count)]), embeddings, 1.0, 0.5)
    labels = model.segment(Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 911, 3), dtype=np.uint8)))
    assert labels.shape == (37, 911) and labels.dtype == (np.uint8 if count == 1 else np.int32) and labels.max() < count
    assert count == 1 or labels.max() > 255


@pytest.mark.parametrize("size", [(1, 1), (9, 8), (8, 9), (37, 911)])
def test_odd_sizes(any_clip: CLIP, size: tuple[int, int]) -> None:
    model = maskclip_of(any_clip, Vocabulary(["cat", "dog"]), key_smoothing=1.0, prompt_denoising=0.5)
    labels = model.segment(Image.fromarray(np.zeros((*size, 3), dtype=np.uint8)))
    assert labels.shape == size


def test_logits_are_float32_under_autocast(vit: CLIP) -> None:
    model, image = maskclip_of(vit, Vocabulary(["cat", "dog", "sky"])), torch.rand(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(image)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_segment_returns_the_size_of_the_image(tiny: MaskCLIP) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 83, 3), dtype=np.uint8))
    labels = tiny.segment(image)
    assert labels.shape == (50, 83) and labels.dtype == np.uint8 and labels.max() < len(tiny.vocabulary)
    assert tiny.segment(image, short_side=96).shape == (50, 83)
    assert tiny.segment(image.convert("L")).shape == (50, 83)


def test_a_batch_equals_its_images_one_by_one(tiny: MaskCLIP) -> None:
    images = torch.rand(3, 3, 40, 56)
    torch.testing.assert_close(tiny(images), torch.cat([tiny(image[None]) for image in images]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": []}, "no class names"),
        ({"classes": ["cat", "cat"]}, "repeated class names: cat"),
        ({"classes": ["cat"], "architecture": "ViT-X"}, "unknown CLIP architecture"),
        ({"classes": ["cat"], "templates": "none"}, "unknown templates"),
        ({"classes": ["cat"], "strategy": "magic", "proxy": "vit_base_patch8_224.dino"}, "unknown strategy 'magic'"),
        ({"classes": ["cat"], "released": {"foo": True}}, "unknown keys in model.released: foo"),
        ({"classes": ["cat"], "key_smoothing": 1.5}, "key_smoothing=1.5 is not a probability"),
        ({"classes": ["cat"], "text_embeddings": "none.safetensors"}, "no file none.safetensors .model.text_embeddings."),
        ({"classes": ["cat"], "normalisation": "clip"}, "model.normalisation=clip"),
        ({"classes": ["cat"], "strategy": "proxyclip"}, "needs a proxy"),
        ({"classes": ["cat"], "strategy": "proxyclip", "proxy": "dino"}, "timm has no model 'dino'"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MaskCLIP.build(**{"architecture": "maskclip-tiny", "pretrained": None, "cache": None, **settings})


@pytest.mark.parametrize("difference", ["exact_gelu", "layer_norm_eps", "projected_keys"])
def test_differences_that_need_a_vit(resnet: CLIP, difference: str) -> None:
    with pytest.raises(InputError, match=f"model.released.{difference}=true needs a ViT of CLIP, not a ModifiedResNet"):
        alter_tower(resnet.visual, Released(**{difference: True}))


def test_provenance_and_method(tiny: MaskCLIP) -> None:
    assert tiny.method == "maskclip"
    assert len(str(tiny.provenance["visual_sha256"])) == len(str(tiny.provenance["text_sha256"])) == 64
    assert tiny.weights_sha256 == tiny.provenance["visual_sha256"]
    refined = MaskCLIP.build(["zebra"], "maskclip-tiny", "textures", "clip", "simple", key_smoothing=1.0, prompt_denoising=0.5, cache=None)
    assert refined.method == "clip + PD + KS"
    assert refined.logit_scale == pytest.approx(tiny.logit_scale)


def test_text_embeddings_from_a_file(tiny: MaskCLIP, tmp_path: Path) -> None:
    tiny.save_text(tmp_path / "text.safetensors")
    visual = {k: v for k, v in load_clip("maskclip-tiny", "textures").state_dict().items() if k.startswith("visual.")}
    torch.save(visual, tmp_path / "visual.pt")
    words = Vocabulary(["zebra", "grass"])
    file = tmp_path / "text.safetensors"
    model = MaskCLIP.build(words, "maskclip-tiny", str(tmp_path / "visual.pt"), text_embeddings=file, prompt_denoising=0.5)
    assert model.logit_scale == tiny.logit_scale != 100  # from the file: these weights have none
    assert model.provenance["templates"] == ["a photo of a {}."]
    assert model.provenance["text_sha256"] == tiny.provenance["text_sha256"]
    with pytest.raises(InputError, match="made with other weights of maskclip-tiny"):
        MaskCLIP.build(words, "maskclip-tiny", None, text_embeddings=file)
    model.prompt_denoising = None
    image = torch.rand(1, 3, 96, 96)
    chosen = torch.tensor([list(tiny.vocabulary.names).index(name) for name in words.names])
    torch.testing.assert_close(model(image), tiny(image, chosen))
    assert model.weights_sha256 == tiny.weights_sha256


def tiny_maskclip(released: dict[str, bool]) -> MaskCLIP:
    options = {"templates": "simple", "key_smoothing": 1.0, "prompt_denoising": 0.9, "cache": None}
    return MaskCLIP.build(["zebra", "grass", "sky"], "maskclip-tiny", "textures", released=released, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plain() -> MaskCLIP:
    return tiny_maskclip({})


@pytest.mark.parametrize("difference", [f.name for f in fields(Released)])
def test_each_difference_of_the_released_code_has_its_effect(difference: str, plain: MaskCLIP) -> None:
    altered = tiny_maskclip({difference: True})
    image = torch.rand(1, 3, 50, 83)
    if difference == "stretch":
        assert plain.covered_size(50, 83) == (56, 88) and altered.covered_size(50, 83) == (50, 83)
    elif difference == "exact_gelu":  # the shipped CLIP computes GELU anyway
        quick = CLIP(24, VIT, TEXT, quick_gelu=True).visual
        x = torch.randn(5, 32)
        before = quick.transformer.resblocks[0].mlp(x)
        alter_tower(quick, Released(exact_gelu=True))
        c_fc, _, c_proj = quick.transformer.resblocks[0].mlp
        torch.testing.assert_close(quick.transformer.resblocks[0].mlp(x), c_proj(torch.nn.functional.gelu(c_fc(x))))
        assert not torch.allclose(before, quick.transformer.resblocks[0].mlp(x), atol=1e-5)
    elif difference == "softmax":
        low = torch.tensor([0.1])
        tied = torch.stack([low, low.nextafter(torch.tensor([1.0]))]).view(1, 2, 1, 1)  # the last digit is lost in a softmax
        assert decide(tied, rule_of(plain))["labels"].item() == 1 and decide(tied, rule_of(altered))["labels"].item() == 0
    elif difference == "remove_all":
        plain = tiny_maskclip({})
        plain.text_embeddings[:] = altered.text_embeddings[:] = plain.text_embeddings[0]  # equal probabilities
        plain.key_smoothing = altered.key_smoothing = None
        assert (plain(image) > REMOVED).all() and (altered(image) == REMOVED).all()
    else:
        assert not torch.equal(plain(image), altered(image))
    assert altered.method.endswith(f"(released: {difference})") and altered.provenance["released"] == [difference]
