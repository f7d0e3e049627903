"""MaskCLIP: an image and a list of words in, class logits at every position out. Nothing is trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor

from maskclip.clip import DenseCLIP, Frozen, Proxy, load_clip, tiny
from maskclip.clip.loading import cache_root, fingerprints, load_tokenizer
from maskclip.clip.strategies import strategy_of
from maskclip.clip.text_embeddings import ABOUT, cached_embeddings, load_text, resolve_templates, save_text
from maskclip.errors import InputError, is_number, is_probability, require
from maskclip.functional import LOGIT_SCALE, REMOVED, best_word, cosine_logits, key_smoothing, prompt_denoising, vote_logits
from maskclip.inference.predict import predict_image
from maskclip.inference.protocol import Protocol
from maskclip.models.released import Released, alter_tower
from maskclip.vocabulary import Vocabulary

NEVER = 2 * REMOVED
"""Logit of the background, which has no words: below whatever a class can have."""


class MaskCLIP(Frozen):
    """Dense zero-shot segmentation from a frozen CLIP (section 3.2), with the refinements of section 3.3.

    >>> model = MaskCLIP.build(["cat", "grass", "sky"], "ViT-B-16-quickgelu", "openai")
    >>> labels = model.segment(Image.open("photo.jpg"))  # (H, W) indices into the words

    `text_embeddings` (W, D) has a unit row for every word of the vocabulary, class by class; a class is what its best
    word is. `key_smoothing` and `prompt_denoising` are thresholds on probabilities (paper: 1.0 and 0.5); None switches
    them off. A background class without words (see `Vocabulary`) is predicted where `background_threshold` is given and
    no class has such a probability, else never.
    """

    text_embeddings: Tensor

    def __init__(
        self,
        clip: DenseCLIP,
        vocabulary: Vocabulary,
        text_embeddings: Tensor,
        key_smoothing: float | None = None,
        prompt_denoising: float | None = None,
        logit_scale: float = LOGIT_SCALE,
        background_threshold: float | None = None,
        released: Released | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_thresholds(vocabulary, key_smoothing, prompt_denoising, background_threshold, released)
        if len(text_embeddings) != sum(vocabulary.word_counts):
            raise InputError(f"{len(text_embeddings)} text embeddings for {sum(vocabulary.word_counts)} words")
        self.clip = clip
        self.vocabulary = vocabulary
        self.register_buffer("text_embeddings", text_embeddings, persistent=False)
        self.key_smoothing, self.prompt_denoising, self.logit_scale = key_smoothing, prompt_denoising, logit_scale
        self.background_threshold = background_threshold
        self.released = released or Released()
        self.provenance = provenance or {}
        self.freeze()

    @classmethod
    def build(
        cls,
        classes: Vocabulary | Sequence[str],
        architecture: str = "ViT-B-16-quickgelu",
        pretrained: str | None = "openai",
        strategy: str = "maskclip",
        templates: str | Sequence[str] = "maskclip",
        key_smoothing: float | None = None,
        prompt_denoising: float | None = None,
        background_threshold: float | None = None,
        logit_scale: float | None = None,
        normalisation: str | None = None,
        proxy: str | None = None,
        text_embeddings: str | Path | None = None,
        released: Released | Mapping[str, bool] | None = None,
        cache: str | Path | None = "default",
    ) -> MaskCLIP:
        """A MaskCLIP for a list of words (or a `Vocabulary`) from an open_clip model.

        `logit_scale` and `normalisation` None take what the CLIP was trained with. `proxy` is the timm model that
        `strategy="proxyclip"` needs. `text_embeddings` is a file of `save_text`, read instead of running the text tower:
        its templates count, not those given here. Text embeddings that are computed are kept in the folder `cache`
        ("default": $MASKCLIP_CACHE or ~/.cache/maskclip; None: not kept).
        Raises `InputError` for bad words, unknown models and weights out of reach.
        """
        vocabulary, sentences, habits = Vocabulary.of(classes), resolve_templates(templates), Released.of(released)
        check_thresholds(vocabulary, key_smoothing, prompt_denoising, background_threshold, habits)
        require(
            logit_scale is None or (is_number(logit_scale) and logit_scale > 0),
            "model.logit_scale",
            logit_scale,
            "a number above 0, or null",
        )
        proxy = proxy if strategy_of(strategy).needs_proxy else None
        model = load_clip(architecture, pretrained, with_text=text_embeddings is None)
        about: dict[str, Any] = {"architecture": architecture, "pretrained": pretrained, "strategy": strategy, **fingerprints(model)}
        alter_tower(model.visual, habits)
        dense = DenseCLIP(
            model.visual,
            strategy,
            normalisation="imagenet" if habits.imagenet_normalisation else normalisation,
            proxy=None if proxy is None else Proxy(proxy),
            projected_keys=habits.projected_keys,
        )  # before the words are read, which takes longer: what does not fit is said at once
        if text_embeddings is not None:
            embeddings, made = load_text(Path(text_embeddings), vocabulary, architecture, about["visual_sha256"])
            about |= {key: value for key, value in made.items() if key in ABOUT}
        else:
            folder = cache_root() if cache == "default" else None if cache is None else Path(cache)
            embeddings = _embed(model, vocabulary, sentences, about, None if pretrained is None else folder)
            about |= {"templates": list(sentences), "logit_scale": model.logit_scale.exp().item()}
        return cls(
            dense,
            vocabulary,
            embeddings,
            key_smoothing=key_smoothing,
            prompt_denoising=prompt_denoising,
            logit_scale=about["logit_scale"] if logit_scale is None else logit_scale,
            background_threshold=background_threshold,
            released=habits,
            provenance={**about, "proxy": proxy, "released": habits.names},
        )

    @property
    def method(self) -> str:
        """What a table calls this model, such as "maskclip + PD + KS"."""
        refinements = [("PD", self.prompt_denoising), ("KS", self.key_smoothing)]
        name = " + ".join([str(self.provenance.get("strategy", "maskclip"))] + [name for name, on in refinements if on is not None])
        habits = self.released.names
        return f"{name} ({'as released' if len(habits) > 3 else 'released: ' + ', '.join(habits)})" if habits else name

    @property
    def weights_sha256(self) -> str | None:
        """A fingerprint of the image tower's weights; None if this was not made by `build`."""
        return self.provenance.get("visual_sha256")

    @property
    def embedding_dim(self) -> int:
        return self.text_embeddings.shape[1]

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """The image size, in pixels, that the grid of logits covers for an input of this size."""
        return (height, width) if self.released.stretch else self.clip.covered_size(height, width)

    @property
    def softmax_first(self) -> bool:
        return self.released.softmax

    @property
    def raw_votes(self) -> bool:
        return self.released.raw_votes and self.key_smoothing is not None

    def forward(
        self, image: Tensor, classes: Tensor | None = None, words: bool = False, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Class logits (B, C, h, w) of RGB images (B, 3, H, W) in 0..1; with `classes` (U,), only those compete.

        Cosines, or, with key smoothing, shares of votes on a like scale. Prompt denoising comes first, key smoothing second.
        With `words` every word stands for itself: (B, W, h, w), and the refinements take words for classes.
        `with_features`: a pair, with the features (B, D, h, w) they are compared with, not of unit length.
        """
        features, keys = self.clip(image, with_keys=self.key_smoothing is not None)
        with torch.autocast(image.device.type, enabled=False):  # close cosines need all their digits
            logits = self._classify(features.float(), None if keys is None else keys.float(), classes, words)
        return (logits, features) if with_features else logits

    def _classify(self, features: Tensor, keys: Tensor | None, classes: Tensor | None, words: bool) -> Tensor:
        rows, counts = self.vocabulary.rows(None if classes is None else classes.tolist())
        chosen = self.text_embeddings if classes is None else self.text_embeddings[rows]
        logits = cosine_logits(features, chosen)
        logits = logits if words else best_word(logits, counts)
        released, scale = self.released, self.logit_scale
        if self.prompt_denoising is not None:
            logits = prompt_denoising(logits, self.prompt_denoising, scale, keep_if_all_unsure=not released.remove_all)
        if self.key_smoothing is not None and keys is not None:
            votes = key_smoothing(logits, keys, self.key_smoothing, scale, "channels" if released.channel_unit_keys else "keys")
            logits = votes if released.raw_votes else vote_logits(votes, scale)
        if self.vocabulary.wordless and classes is None:
            logits = torch.cat([torch.full_like(logits[:, :1], NEVER), logits], dim=1)
        return logits

    def save_text(self, path: str | Path) -> None:
        """Write the text embeddings to a safetensors file, for `build(text_embeddings=path)` where there is no text tower."""
        save_text(Path(path), self.text_embeddings.cpu(), self.vocabulary, self.provenance)

    def segment(self, image: Image.Image, short_side: int | None = None, long_side: int | None = None) -> np.ndarray:
        """The label map of a picture at its own size, (H, W). The sides say at which size CLIP sees it."""
        return predict_image(self, image, Protocol(short_side=short_side, long_side=long_side))


def check_thresholds(
    vocabulary: Vocabulary,
    key_smoothing: float | None,
    prompt_denoising: float | None,
    background_threshold: float | None,
    released: Released | None,
) -> None:
    """Raise `InputError` if a threshold is no probability, or there is nothing that it could be compared with."""
    thresholds = {"key_smoothing": key_smoothing, "prompt_denoising": prompt_denoising, "background_threshold": background_threshold}
    for name, threshold in thresholds.items():
        if threshold is not None and not is_probability(threshold):
            raise InputError(f"{name}={threshold} is not a probability between 0 and 1 (null switches it off)")
    if background_threshold is None:
        return
    if not vocabulary.background:
        raise InputError("background_threshold needs a vocabulary with a background, such as classes=voc21 or classes.background=true")
    if len(vocabulary.words) < 2:
        raise InputError("background_threshold needs two classes with words: among one, every pixel has probability 1")
    if released is not None and released.raw_votes and key_smoothing is not None:
        raise InputError("background_threshold needs probabilities, and model.released.raw_votes leaves none: give up one of the two")


def _embed(model: CLIP, vocabulary: Vocabulary, sentences: Sequence[str], about: Mapping[str, Any], cache: Path | None) -> Tensor:
    architecture = about["architecture"]
    tokenizer = load_tokenizer(architecture)
    if architecture == tiny.ARCHITECTURE:
        _warn_of_unknown_words(model, tokenizer, vocabulary)
    weights = {key: about[key] for key in ("visual_sha256", "text_sha256")}
    return cached_embeddings(model, tokenizer, vocabulary, sentences, architecture, weights, cache)


def _warn_of_unknown_words(model: CLIP, tokenizer: open_clip.SimpleTokenizer, vocabulary: Vocabulary) -> None:
    unknown = [word for words in vocabulary.words for word in words if tiny.unknown_words(model, tokenizer([word])).any()]
    listed = ", ".join(unknown[:8]) + (" ..." if len(unknown) > 8 else "")
    if unknown:
        warnings.warn(
            f"the tiny CLIP knows only the textures world; these words mean nothing to it: {listed}. "
            "Use model=maskclip_vit16 for words of your own.",
            stacklevel=3,
        )
