"""The released code of the authors, number by number: outputs of their code on refilled weights (`refill.py`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import open_clip
import pytest
import torch
from conftest import ROOT
from omegaconf import DictConfig
from support.refill import refill
from torch import Tensor

from maskclip import DenseCLIP, MaskCLIP, Released, Vocabulary
from maskclip.clip.text_embeddings import TEMPLATE_SETS, embed_vocabulary
from maskclip.clip.towers import ViTReader
from maskclip.functional import resize
from maskclip.inference.labels import decide
from maskclip.inference.predict import predict_logits, rule_of
from maskclip.inference.protocol import NATIVE
from maskclip.models.released import alter_tower
from maskclip.programs.config import plain

GOLDENS = np.load(ROOT / "tests" / "assets" / "goldens.npz")
OFFICIAL = Released(
    exact_gelu=True,
    layer_norm_eps=True,
    imagenet_normalisation=True,
    projected_keys=True,
    channel_unit_keys=True,
    raw_votes=True,
    remove_all=True,
    stretch=True,
    softmax=True,
)
FIVE = ["cat", "dog", "grass", "sky", "road"]
SIZES = {"a": (300, 429), "b": (174, 250)}  # of the images before they were resized
LOGITS = {"atol": 2e-6, "rtol": 0.0}  # of cosines, which are about 0.1 here


def golden(key: str) -> Tensor:
    return torch.from_numpy(GOLDENS[key])


def image(name: str) -> Tensor:
    return golden(f"rgb_{name}").permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def official() -> DenseCLIP:
    visual = refill(open_clip.create_model("ViT-B-16"), "visual.").visual
    alter_tower(visual, OFFICIAL)
    return DenseCLIP(visual, normalisation="imagenet", projected_keys=True)


@pytest.fixture(scope="module")
def faithful() -> DenseCLIP:
    return DenseCLIP(refill(open_clip.create_model("ViT-B-16-quickgelu"), "visual.").visual, normalisation="imagenet")


def model_for(clip: DenseCLIP, text: str, option: str, released: Released) -> MaskCLIP:
    embeddings = golden("text_synth20_512" if text == "synth20" else f"text_ViT-B-16_{text}")
    words = Vocabulary([str(i) for i in range(len(embeddings))])
    pd = float(GOLDENS[f"{text}_pd_thresh"]) if "pd" in option else None
    ks = None if option in ("plain", "pd") else float(GOLDENS[f"{text}_ksmix_thresh"]) if option == "ksmix" else 1.0
    return MaskCLIP(clip, words, embeddings, ks, pd, released=released)


@pytest.mark.parametrize("name", ["a", "b"])
def test_normalisation(official: DenseCLIP, name: str) -> None:
    normalised = (image(name) - official.mean) / official.std
    torch.testing.assert_close(normalised[0, :, :8, :8], golden(f"norm_{name}_corner"), atol=2e-6, rtol=0)


@torch.no_grad()
def test_intermediates(official: DenseCLIP) -> None:
    features, keys = official(image("a"), with_keys=True)
    assert keys is not None
    torch.testing.assert_close(features[0], golden("inter_a_feat"), atol=5e-5, rtol=0)
    torch.testing.assert_close(keys[0].flatten(1).T, golden("inter_a_k"), atol=5e-5, rtol=0)
    reader = official.reader
    assert isinstance(reader, ViTReader)
    for name, expected in (("a", golden("inter_a_v")), ("b", golden("inter_b_v_c0_64"))):
        pixels = image(name)
        tokens, blocks, _ = reader.tokens((pixels - official.mean) / official.std)
        path = blocks[0].merge(blocks[0].project(blocks[0].norm(tokens), 2, patches_only=True)) + tokens[:, 1:]
        values = reader.anatomy.tower.ln_post(path + blocks[0].mlp(path))[0].T  # type: ignore[union-attr, operator]
        torch.testing.assert_close(values[: len(expected)], expected.flatten(1), atol=5e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize(
    ("text", "option"), [(t, o) for t in ("five", "synth20") for o in ("plain", "ks", "pd", "kspd", "ksmix")] + [("voc", "plain")]
)
def test_logits_and_labels(official: DenseCLIP, text: str, option: str, name: str) -> None:
    model, pixels = model_for(official, text, option, OFFICIAL), image(name)
    logits, expected = model(pixels)[0], golden(f"{text}_{option}_{name}_logits")
    smoothed = option.startswith("ks")
    tolerance = {"atol": 1e-5 * expected.abs().max().item(), "rtol": 0.0} if smoothed else LOGITS
    torch.testing.assert_close(logits, expected, **tolerance)
    labels = decide(resize(predict_logits(model, pixels, NATIVE), SIZES[name]), rule_of(model))["labels"][0]
    agreement = (labels == golden(f"{text}_{option}_{name}_argmax")).float().mean()
    assert agreement >= 0.999


@torch.no_grad()
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_faithful_clip(faithful: DenseCLIP, name: str) -> None:
    embeddings, pixels = golden("text_ViT-B-16-quickgelu_five"), image(name)
    model = MaskCLIP(faithful, Vocabulary(FIVE), embeddings, released=Released(stretch=True))
    logits = model(pixels)
    torch.testing.assert_close(logits[0], golden(f"faithful_{name}_logits"), **LOGITS)
    labels = decide(resize(predict_logits(model, pixels, NATIVE), SIZES[name]), rule_of(model))["labels"][0]
    assert (labels == golden(f"faithful_{name}_argmax")).float().mean() >= 0.999


@torch.no_grad()
def test_each_habit_changes_the_result(official: DenseCLIP, faithful: DenseCLIP) -> None:
    """Were an option without effect, the goldens would not notice that it is not wired up."""
    pixels = image("b")
    reference = model_for(official, "synth20", "kspd", OFFICIAL)(pixels)
    for habit in ("channel_unit_keys", "raw_votes"):
        others = Released(**{name: name != habit for name in OFFICIAL.names})
        assert not torch.allclose(model_for(official, "synth20", "kspd", others)(pixels), reference, rtol=1e-3)
    assert not torch.allclose(model_for(faithful, "synth20", "plain", OFFICIAL)(pixels), golden("synth20_plain_b_logits"), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["ViT-B-16", "ViT-B-16-quickgelu", "RN50", "RN50-quickgelu"])
def test_text_embeddings(architecture: str, compose_cfg: Callable[..., DictConfig]) -> None:
    model = refill(open_clip.create_model(architecture))
    tokenizer = open_clip.get_tokenizer(architecture)
    embeddings = embed_vocabulary(model, tokenizer, Vocabulary(FIVE), TEMPLATE_SETS["maskclip"])  # type: ignore[arg-type]
    torch.testing.assert_close(embeddings, golden(f"text_{architecture}_five"), atol=2e-6, rtol=0)
    voc = Vocabulary(**plain(compose_cfg("eval", "data=voc20").classes))
    words, chosen = [words[0] for words in voc.words], [0, 10, 15, 19]  # 85 sentences each: those spelled in another way
    part = embed_vocabulary(model, tokenizer, Vocabulary([words[i] for i in chosen]), TEMPLATE_SETS["maskclip"])  # type: ignore[arg-type]
    torch.testing.assert_close(part, golden(f"text_{architecture}_voc")[chosen], atol=2e-6, rtol=0)
