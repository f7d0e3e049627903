"""The interface of the models that can be evaluated and used for segmentation."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from maskclip.vocabulary import Vocabulary


class Segmenter(Protocol):
    """A model that returns logits on a coarse grid for RGB images (B, 3, H, W) in 0..1.

    Calling it returns class logits (B, C, h, w). With `words`, it returns a logit for each word instead,
    (B, sum of `vocabulary.logit_counts`, h, w). With `with_features`, it returns a pair: the logits, and the features
    (B, D, h, w) in the space of the text embeddings that they are computed from.
    """

    vocabulary: Vocabulary
    """The classes."""

    provenance: dict[str, Any]
    """How the model was made, for result cards."""

    @property
    def method(self) -> str:
        """The name of the method in tables."""

    @property
    def weights_sha256(self) -> str | None:
        """Fingerprint of the weights."""

    @property
    def logit_scale(self) -> float:
        """Temperature of the final softmax: logits are multiplied by it."""

    @property
    def background_threshold(self) -> float | None:
        """Pixels whose best class has a lower probability become background; None for no threshold."""

    @property
    def softmax_first(self) -> bool:
        """Whether an unscaled softmax precedes the argmax, as in the released code (see `Released`)."""

    @property
    def raw_votes(self) -> bool:
        """Whether the outputs are votes that no softmax turns into probabilities, as in the released code (see `Released`)."""

    def __call__(self, image: Tensor, /, *, words: bool = ..., with_features: bool = ...) -> Any: ...

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels that the grid covers for an input of this size: the input and its padding."""
