"""A MaskCLIP that may assign some of its classes only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskclip.models.maskclip import NEVER, MaskCLIP


class RestrictedMaskCLIP(nn.Module):
    """A `Segmenter` whose labels and probabilities are those of `model` if only `classes` compete.

    In the zero-shot setting, pseudo labels are chosen among the unlabelled classes only (section 3, MaskCLIP+). Prompt
    denoising and key smoothing see these classes only. The other classes keep their indices and have the logit `NEVER`.

    Raises `InputError` for a class without words.
    """

    classes: Tensor
    rows: Tensor

    def __init__(self, model: MaskCLIP, classes: Sequence[int]) -> None:
        super().__init__()
        self.model, self.vocabulary, self.provenance = model, model.vocabulary, model.provenance
        self.method, self.weights_sha256 = model.method, model.weights_sha256
        self.logit_scale, self.background_threshold = model.logit_scale, model.background_threshold
        self.softmax_first, self.raw_votes = model.softmax_first, model.raw_votes
        self.register_buffer("classes", torch.tensor(classes, dtype=torch.long), persistent=False)
        rows, _ = model.vocabulary.rows(classes)
        self.register_buffer("rows", torch.tensor(rows) + model.vocabulary.wordless, persistent=False)

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Segmenter`."""
        return self.model.covered_size(height, width)

    def forward(self, image: Tensor, words: bool = False, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, C, h, w) of RGB images (B, 3, H, W) in 0..1, or word logits (B, W, h, w); features as in `MaskCLIP`."""
        chosen, features = self.model(image, self.classes, words=words, with_features=True)
        index = self.rows if words else self.classes
        counts = self.vocabulary.logit_counts
        logits = chosen.new_full((len(chosen), sum(counts) if words else len(counts), *chosen.shape[2:]), NEVER)
        logits[:, index] = chosen
        return (logits, features) if with_features else logits
