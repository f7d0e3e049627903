"""The students of MaskCLIP+: ordinary segmentation networks whose classifier is the text embeddings (section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from PIL import Image
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import Tensor, nn

from maskclip.clip import weights_sha256
from maskclip.errors import InputError
from maskclip.functional import best_word
from maskclip.inference import Protocol, predict_image
from maskclip.vocabulary import Vocabulary

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Student(nn.Module):
    """DeepLabv3+ (segmentation-models-pytorch) with features in the text space and text embeddings as the classifier.

    The last convolution has `embedding_dim` channels; class scores are its dot products with the frozen text embeddings,
    without bias, temperature or normalisation, as in the released code; a class scores as its best word does. `classes`
    are the arguments of a `Vocabulary`; a background without words is one learned embedding, made unit when used.
    `encoder` is any encoder of smp or, with the prefix "tu-", of timm; `weights` its pretraining, None for none.
    `options` go to the network.
    The text embeddings are part of the state: a stored student needs no CLIP.
    """

    mean: Tensor
    std: Tensor
    text_embeddings: Tensor
    multiple = 32

    def __init__(
        self,
        classes: Mapping[str, Any],
        embedding_dim: int,
        encoder: str = "resnet101",
        weights: str | None = "imagenet",
        provenance: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.vocabulary = Vocabulary(**classes)
        self.provenance = dict(provenance or {})
        self.network = _deeplab(encoder, weights, embedding_dim, options)
        self.register_buffer("text_embeddings", torch.zeros(sum(self.vocabulary.word_counts), embedding_dim))
        self.background = nn.Parameter(torch.randn(1, embedding_dim)) if self.vocabulary.wordless else None
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    @property
    def method(self) -> str:
        return str(self.provenance.get("method", "student"))

    @property
    def weights_sha256(self) -> str:
        """A fingerprint of the student's own weights."""
        return weights_sha256(self)

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """The image size, in pixels, that the grid of logits covers: rounded up to what the encoder's strides divide."""
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple

    def classifier(self) -> Tensor:
        """Unit embeddings of all words, (W, D), class by class: the text embeddings, the learned background before them."""
        if self.background is None:
            return self.text_embeddings
        return torch.cat([F.normalize(self.background, dim=1), self.text_embeddings])

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (B, C, h, w) at stride 4 of RGB images (B, 3, H, W) in 0..1."""
        height, width = image.shape[-2:]
        rows, columns = self.covered_size(height, width)
        padded = F.pad((image - self.mean) / self.std, (0, columns - width, 0, rows - height))
        scores = torch.einsum("bdhw,cd->bchw", self.network(padded), self.classifier())
        return best_word(scores, [1] * self.vocabulary.wordless + self.vocabulary.word_counts)

    def decide(self, logits: Tensor) -> Tensor:
        """The label of every pixel, (B, H, W): its best class by logits (B, C, H, W)."""
        return logits.argmax(dim=1)

    def segment(self, image: Image.Image, short_side: int | None = None, long_side: int | None = None) -> np.ndarray:
        """The label map of a picture at its own size, (H, W). The sides say at which size the network sees it."""
        return predict_image(self, image, Protocol(short_side=short_side, long_side=long_side))


def _deeplab(encoder: str, weights: str | None, channels: int, options: dict[str, Any]) -> nn.Module:
    try:
        network = smp.DeepLabV3Plus(encoder, encoder_weights=weights, classes=channels, upsampling=1, **options)
    except KeyError as cause:
        raise InputError(f"student.encoder={encoder}: {cause.args[0]}") from cause
    except OSError as cause:
        raise InputError(
            f"the {weights} weights of {encoder} are not on this machine and could not be downloaded; "
            "connect once, or start from random weights with task.student.weights=null"
        ) from cause

    if isinstance(network.encoder, ResNetEncoder):  # smp keeps the stages beyond the depth, without ever using them
        for stage in range(options.get("encoder_depth", 5), 5):
            setattr(network.encoder, f"layer{stage}", nn.Identity())
    return network


def load_student(checkpoint: str | Path, classes: Vocabulary | Sequence[str] | None = None) -> Student:
    """The student in a checkpoint of `src/train.py`, in eval mode, without its teacher.

    `classes` None takes the student's own; others must have the same names. Raises `InputError` if the file is
    missing or not such a checkpoint, or if the class names differ.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise InputError(f"no checkpoint {path} (model.checkpoint)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        settings = content["hyper_parameters"]
        prefix = "student."
        state = {name[len(prefix) :]: value for name, value in content["state_dict"].items() if name.startswith(prefix)}
        student = Student(
            settings["classes"],
            settings["embedding_dim"],
            provenance=settings["provenance"],
            **{**settings["student"], "weights": None},
        )
        student.load_state_dict(state)
    except Exception as cause:
        raise InputError(f"{path} is not a checkpoint of a MaskCLIP+ student ({type(cause).__name__})") from cause
    if classes is not None and list(Vocabulary.of(classes).names) != list(student.vocabulary.names):
        raise InputError(
            f"the student in {path} knows {', '.join(student.vocabulary.names)}; "
            f"the classes asked for are {', '.join(Vocabulary.of(classes).names)}"
        )
    return student.eval()
