"""MaskCLIP: an image and a list of words in, class logits at every position out. Nothing is trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor

from maskclip.clip import DenseCLIP, Frozen, load_clip, tiny, weights_sha256
from maskclip.clip.loading import cache_root
from maskclip.errors import InputError
from maskclip.functional import LOGIT_SCALE, REMOVED, cosine_logits, key_smoothing, prompt_denoising, vote_logits
from maskclip.inference import Protocol, predict_image
from maskclip.prompts import cached_embeddings, resolve_templates
from maskclip.vocabulary import Vocabulary

NEVER = 2 * REMOVED
"""Logit of the background, which has no words: below whatever a class can have."""


class MaskCLIP(Frozen):
    """Dense zero-shot segmentation from a frozen CLIP (section 3.2), with the refinements of section 3.3.

    >>> model = MaskCLIP.build(["cat", "grass", "sky"], "ViT-B-16-quickgelu", "openai")
    >>> labels = model.segment(Image.open("photo.jpg"))  # (H, W) uint8 indices into the words

    `key_smoothing` and `prompt_denoising` are thresholds on probabilities (paper: 1.0 and 0.5); None switches them off.
    A background class (see `Vocabulary`) has no words and is never predicted.
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
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, threshold in (("key_smoothing", key_smoothing), ("prompt_denoising", prompt_denoising)):
            if threshold is not None and (not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1):
                raise InputError(f"{name}={threshold} is not a probability between 0 and 1 (null switches it off)")
        self.clip = clip
        self.vocabulary = vocabulary
        self.register_buffer("text_embeddings", text_embeddings, persistent=False)
        self.key_smoothing, self.prompt_denoising, self.logit_scale = key_smoothing, prompt_denoising, logit_scale
        self.provenance = provenance or {}
        self.freeze()

    @classmethod
    def build(
        cls,
        classes: Vocabulary | Sequence[str],
        architecture: str = "ViT-B-16-quickgelu",
        pretrained: str | None = "openai",
        strategy: str = "maskclip",
        templates: str | Sequence[str] = "paper",
        key_smoothing: float | None = None,
        prompt_denoising: float | None = None,
        logit_scale: float | None = None,
        cache: str | Path | None = "default",
    ) -> MaskCLIP:
        """A MaskCLIP for a list of words (or a `Vocabulary`) from an open_clip model.

        `logit_scale` None takes the one that the CLIP was trained with (100 for OpenAI's). Text embeddings are kept in
        the folder `cache` ("default": $MASKCLIP_CACHE or ~/.cache/maskclip; None: not kept).
        Raises `InputError` for bad words, unknown models and weights out of reach.
        """
        vocabulary = Vocabulary.of(classes)
        sentences = resolve_templates(templates)
        model = load_clip(architecture, pretrained)
        tokenizer = open_clip.get_tokenizer(architecture)
        if architecture == tiny.ARCHITECTURE:
            _warn_of_unknown_words(model, tokenizer, vocabulary)
        fingerprint = weights_sha256(model)
        folder = cache_root() if cache == "default" else None if cache is None else Path(cache)
        embeddings = cached_embeddings(model, tokenizer, vocabulary, sentences, f"{architecture} {fingerprint}", folder)
        return cls(
            DenseCLIP(model.visual, strategy),
            vocabulary,
            embeddings,
            key_smoothing,
            prompt_denoising,
            model.logit_scale.exp().item() if logit_scale is None else logit_scale,
            {"architecture": architecture, "pretrained": pretrained, "strategy": strategy, "weights_sha256": fingerprint},
        )

    @property
    def method(self) -> str:
        """What a table calls this model, such as "maskclip + KS + PD"."""
        refinements = [("PD", self.prompt_denoising), ("KS", self.key_smoothing)]
        return " + ".join([str(self.provenance.get("strategy", "maskclip"))] + [name for name, on in refinements if on is not None])

    @property
    def weights_sha256(self) -> str | None:
        """A fingerprint of CLIP's weights; None if this was not made by `build`."""
        return self.provenance.get("weights_sha256")

    @property
    def embedding_dim(self) -> int:
        return self.text_embeddings.shape[1]

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """The image size, in pixels, that the grid of logits covers for an input of this size."""
        return self.clip.covered_size(height, width)

    def forward(self, image: Tensor, classes: Tensor | None = None) -> Tensor:
        """Class logits (B, C, h, w) of RGB images (B, 3, H, W) in 0..1; with `classes` (U,), only those compete.

        Cosines, or, with key smoothing, shares of votes on a like scale. Prompt denoising comes first, key smoothing second.
        """
        features, keys = self.clip(image, with_keys=self.key_smoothing is not None)
        with torch.autocast(image.device.type, enabled=False):  # close cosines need all their digits
            return self._classify(features.float(), None if keys is None else keys.float(), classes)

    def _classify(self, features: Tensor, keys: Tensor | None, classes: Tensor | None) -> Tensor:
        first = int(self.vocabulary.background)
        chosen = self.text_embeddings if classes is None else self.text_embeddings[classes - first]
        logits = cosine_logits(features, chosen)
        if self.prompt_denoising is not None:
            logits = prompt_denoising(logits, self.prompt_denoising, self.logit_scale)
        if self.key_smoothing is not None and keys is not None:
            votes = key_smoothing(logits, keys, self.key_smoothing, self.logit_scale)
            logits = vote_logits(votes, self.logit_scale)
        if first and classes is None:
            logits = torch.cat([torch.full_like(logits[:, :1], NEVER), logits], dim=1)
        return logits

    def segment(self, image: Image.Image, short_side: int | None = None, long_side: int | None = None) -> np.ndarray:
        """The label map of a picture at its own size, (H, W) uint8. The sides say at which size CLIP sees it."""
        return predict_image(self, image, Protocol(short_side=short_side, long_side=long_side))


def _warn_of_unknown_words(model: CLIP, tokenizer: open_clip.SimpleTokenizer, vocabulary: Vocabulary) -> None:
    unknown = [word for words in vocabulary.words for word in words if tiny.unknown_words(model, tokenizer([word])).any()]
    listed = ", ".join(unknown[:8]) + (" ..." if len(unknown) > 8 else "")
    if unknown:
        warnings.warn(
            f"the tiny CLIP knows only the textures world; these words mean nothing to it: {listed}. "
            "Use model=maskclip_vit16 for words of your own.",
            stacklevel=3,
        )
