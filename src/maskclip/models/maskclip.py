"""MaskCLIP: class logits at every position of an image, for any list of words, without training."""

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

from maskclip.clip import tiny
from maskclip.clip.dense import DenseCLIP
from maskclip.clip.frozen import Frozen
from maskclip.clip.loading import fingerprints, load_clip, load_tokenizer
from maskclip.clip.proxy import Proxy
from maskclip.clip.strategies import strategy_of
from maskclip.clip.text_embeddings import METADATA, cache_root, cached_embeddings, load_text, resolve_templates, save_text
from maskclip.errors import InputError, is_number, is_probability, require
from maskclip.functional import LOGIT_SCALE, REMOVED, best_word, cosine_logits, key_smoothing, prompt_denoising, vote_logits
from maskclip.inference.predict import predict_image
from maskclip.inference.protocol import Protocol
from maskclip.models.released import Released, alter_tower
from maskclip.vocabulary import Vocabulary

NEVER = 2 * REMOVED
"""Logit of a background class without words: below the logits of all other classes."""


class MaskCLIP(Frozen):
    """Zero-shot segmentation with a frozen CLIP, with key smoothing and prompt denoising as options (section 3).

    `text_embeddings`: (W, D), one unit row for each word, class by class. The logit of a class is that of its best word.
    `key_smoothing`, `prompt_denoising`: thresholds on probabilities (1.0 and 0.5 in the paper); None switches them off.
    `logit_scale`: factor of the cosines before a softmax. `background_threshold`: pixels without a class of at
    least this probability become background; None never predicts a background class without words (see `Vocabulary`).
    `released`: differences of the released code to reproduce. `provenance`: what results record about the model.

    Raises `InputError` if the settings do not fit the vocabulary, see `check_thresholds`.

    Example:
        ```python
        model = MaskCLIP.build(["cat", "grass", "sky"], "ViT-B-16-quickgelu", "openai")
        labels = model.segment(Image.open("photo.jpg"))  # (H, W) indices into the words
        ```
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
            raise InputError(f"{len(text_embeddings)} text embeddings for {sum(vocabulary.word_counts)} words: pass one row for each word")
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
        """Build a MaskCLIP from an open_clip model, for a list of words or a `Vocabulary`.

        `architecture`, `pretrained`: see `load_clip`. `strategy`: what replaces attention in the last block, a key of
        `STRATEGIES`. `templates`: sentences with {}, or a key of `TEMPLATE_SETS`. `logit_scale`, `normalisation`: None
        takes those that the CLIP was trained with. `proxy`: the timm model for the strategy "proxyclip".
        `text_embeddings`: a file of `save_text` that replaces the text tower and `templates`. `cache`: the folder that
        stores computed text embeddings; "default" is $MASKCLIP_CACHE or ~/.cache/maskclip, None stores nothing.
        The other arguments are those of `MaskCLIP`.

        Raises `InputError` for invalid words or settings, unknown models, and weights that cannot be downloaded.
        """
        vocabulary, sentences, differences = Vocabulary.of(classes), resolve_templates(templates), Released.of(released)
        check_thresholds(vocabulary, key_smoothing, prompt_denoising, background_threshold, differences)
        require(
            logit_scale is None or (is_number(logit_scale) and logit_scale > 0),
            "model.logit_scale",
            logit_scale,
            "a number above 0, or null",
        )
        proxy = proxy if strategy_of(strategy).needs_proxy else None
        model = load_clip(architecture, pretrained, with_text=text_embeddings is None)
        provenance: dict[str, Any] = {"architecture": architecture, "pretrained": pretrained, "strategy": strategy, **fingerprints(model)}
        alter_tower(model.visual, differences)
        dense = DenseCLIP(
            model.visual,
            strategy,
            normalisation="imagenet" if differences.imagenet_normalisation else normalisation,
            proxy=None if proxy is None else Proxy(proxy),
            projected_keys=differences.projected_keys,
        )  # before the text embeddings, which take longer: settings that do not fit raise first
        if text_embeddings is not None:
            embeddings, metadata = load_text(Path(text_embeddings), vocabulary, architecture, provenance["visual_sha256"])
            provenance |= {key: value for key, value in metadata.items() if key in METADATA}
        else:
            folder = cache_root() if cache == "default" else None if cache is None else Path(cache)
            embeddings = _embed(model, vocabulary, sentences, provenance, None if pretrained is None else folder)
            provenance |= {"templates": list(sentences), "logit_scale": model.logit_scale.exp().item()}
        return cls(
            dense,
            vocabulary,
            embeddings,
            key_smoothing=key_smoothing,
            prompt_denoising=prompt_denoising,
            logit_scale=provenance["logit_scale"] if logit_scale is None else logit_scale,
            background_threshold=background_threshold,
            released=differences,
            provenance={**provenance, "proxy": proxy, "released": differences.names},
        )

    @property
    def method(self) -> str:
        """The name of the model in tables, such as "maskclip + PD + KS"."""
        refinements = [("PD", self.prompt_denoising), ("KS", self.key_smoothing)]
        name = " + ".join([str(self.provenance.get("strategy", "maskclip"))] + [name for name, on in refinements if on is not None])
        differences = self.released.names
        if not differences:
            return name
        return f"{name} ({'as released' if len(differences) > 3 else 'released: ' + ', '.join(differences)})"

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the image tower's weights; None if the model was not made by `build`."""
        return self.provenance.get("visual_sha256")

    @property
    def embedding_dim(self) -> int:
        return self.text_embeddings.shape[1]

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """The size in pixels that the grid of logits covers for an image of this size, padding included."""
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
        """Class logits (B, C, h, w) of RGB images (B, 3, H, W) in 0..1.

        Logits are cosines, after prompt denoising if it is on. With key smoothing they are those of `vote_logits`.
        `classes`: indices (U,) of the only classes to compare; the result is (B, U, h, w). `words=True` returns a logit for
        each word, (B, W, h, w), and the refinements treat words as classes. `with_features=True` returns a pair of the
        logits and the features (B, D, h, w), which do not have unit length.
        """
        features, keys = self.clip(image, with_keys=self.key_smoothing is not None)
        with torch.autocast(image.device.type, enabled=False):  # cosines of classes differ in digits that half precision drops
            logits = self._classify(features.float(), None if keys is None else keys.float(), classes, words)
        return (logits, features) if with_features else logits

    def _classify(self, features: Tensor, keys: Tensor | None, classes: Tensor | None, words: bool) -> Tensor:
        rows, counts = self.vocabulary.rows(None if classes is None else classes.tolist())
        logits = cosine_logits(features, self.text_embeddings if classes is None else self.text_embeddings[rows])
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
        """Write the text embeddings to a safetensors file, for `build(text_embeddings=path)` without a text tower."""
        save_text(Path(path), self.text_embeddings.cpu(), self.vocabulary, self.provenance)

    def segment(self, image: Image.Image, short_side: int | None = None, long_side: int | None = None) -> np.ndarray:
        """Class indices (H, W) at the size of the image. `short_side`, `long_side`: its size in pixels for CLIP, see `Protocol`."""
        return predict_image(self, image, Protocol(short_side=short_side, long_side=long_side))


def check_thresholds(
    vocabulary: Vocabulary,
    key_smoothing: float | None,
    prompt_denoising: float | None,
    background_threshold: float | None,
    released: Released | None,
) -> None:
    """Raise `InputError` if a threshold is not a probability, or if `background_threshold` does not fit the other settings."""
    thresholds = {"key_smoothing": key_smoothing, "prompt_denoising": prompt_denoising, "background_threshold": background_threshold}
    for name, threshold in thresholds.items():
        if threshold is not None and not is_probability(threshold):
            raise InputError(f"model.{name}={threshold} is not a probability: give a number from 0 to 1, or null to switch it off")
    if background_threshold is None:
        return
    if not vocabulary.background:
        raise InputError(
            "model.background_threshold needs a background class: choose a vocabulary that has one (classes=voc21), or set "
            "classes.background=true"
        )
    if len(vocabulary.words) < 2:
        raise InputError("model.background_threshold needs two classes with words: with one, its probability is 1 at every pixel")
    if released is not None and released.raw_votes and key_smoothing is not None:
        raise InputError(
            "model.background_threshold needs probabilities, and model.released.raw_votes=true has none: switch one of them off"
        )


def _embed(model: CLIP, vocabulary: Vocabulary, sentences: Sequence[str], provenance: Mapping[str, Any], cache: Path | None) -> Tensor:
    architecture = provenance["architecture"]
    tokenizer = load_tokenizer(architecture)
    if architecture == tiny.ARCHITECTURE:
        _warn_about_unknown_words(model, tokenizer, vocabulary)
    weights = {key: provenance[key] for key in ("visual_sha256", "text_sha256")}
    return cached_embeddings(model, tokenizer, vocabulary, sentences, architecture, weights, cache)


def _warn_about_unknown_words(model: CLIP, tokenizer: open_clip.SimpleTokenizer, vocabulary: Vocabulary) -> None:
    unknown = [word for words in vocabulary.words for word in words if tiny.unknown_words(model, tokenizer([word])).any()]
    listed = ", ".join(unknown[:8]) + (" ..." if len(unknown) > 8 else "")
    if unknown:
        warnings.warn(
            f"the tiny CLIP was trained on the textures world only, without the words {listed}: "
            "use model=maskclip_vit16 for your own words",
            stacklevel=3,
        )
