"""The students of MaskCLIP+: ordinary segmentation networks whose classifier is the text embeddings (section 3.4)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load, save
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from maskclip.errors import InputError, is_number, require
from maskclip.files import json_text, replacing
from maskclip.fingerprint import weights_sha256
from maskclip.functional import best_word
from maskclip.inference.predict import predict_image
from maskclip.inference.protocol import Protocol
from maskclip.models.networks import build_network
from maskclip.vocabulary import Vocabulary

WEIGHTS, DESCRIPTION = "student.safetensors", "student.json"


class Student(nn.Module):
    """A segmentation network with features in the text space and text embeddings as the classifier.

    The last feature has `embedding_dim` channels; class scores are its dot products with the frozen text embeddings,
    without bias, as in the released code; `normalise` makes features unit first, `temperature` multiplies the scores
    (released: neither). A class scores as its best word does. `classes` are the arguments of a `Vocabulary`; a background
    without words is one learned embedding, made unit when used. `arch`, `encoder`, `weights` (None: random) and `options`
    describe the network, see `build_network`. The text embeddings are part of the state: a stored student needs no CLIP.
    """

    mean: Tensor
    std: Tensor
    text_embeddings: Tensor
    multiple = 32
    logit_scale = 1.0
    background_threshold = None
    softmax_first = False
    raw_votes = False

    def __init__(
        self,
        classes: Mapping[str, Any],
        embedding_dim: int,
        arch: str = "deeplabv3plus",
        encoder: str = "resnet101",
        weights: str | None = "imagenet",
        normalise: bool = False,
        temperature: float = 1.0,
        provenance: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        require(isinstance(normalise, bool), "student.normalise", normalise, "true or false")
        require(is_number(temperature) and temperature > 0, "student.temperature", temperature, "a number above 0")
        network = {"arch": arch, "encoder": encoder, **options}
        self.settings = {"embedding_dim": embedding_dim, "normalise": normalise, "temperature": temperature, **network}
        self.normalise, self.temperature = normalise, temperature
        self.vocabulary = Vocabulary(**classes)
        self.provenance = dict(provenance or {})
        self.network = build_network(arch, encoder, weights, embedding_dim, options)
        self.register_buffer("text_embeddings", torch.zeros(sum(self.vocabulary.word_counts), embedding_dim))
        self.background = nn.Parameter(torch.randn(1, embedding_dim)) if self.vocabulary.wordless else None
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1), persistent=False)

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

    def features(self, image: Tensor) -> Tensor:
        """Features (B, D, h, w) in the text space of RGB images (B, 3, H, W) in 0..1, at the network's stride."""
        height, width = image.shape[-2:]
        rows, columns = self.covered_size(height, width)
        return self.network(F.pad((image - self.mean) / self.std, (0, columns - width, 0, rows - height)))

    def classify(self, features: Tensor, words: bool = False) -> Tensor:
        """Class logits (B, C, h, w) from features (B, D, h, w); with `words` those of every word, (B, W, h, w)."""
        if self.normalise:
            features = F.normalize(features, dim=1)
        scores = self.temperature * torch.einsum("bdhw,cd->bchw", features, self.classifier())
        return scores if words else best_word(scores, self.vocabulary.logit_counts)

    def forward(self, image: Tensor, words: bool = False, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Class logits (B, C, h, w) of RGB images (B, 3, H, W) in 0..1, at the network's stride; of words as `classify` says.

        `with_features`: a pair, with the features (B, D, h, w) they are made from.
        """
        features = self.features(image)
        with torch.autocast(image.device.type, enabled=False):  # as in MaskCLIP: similarities need all their digits
            logits = self.classify(features.float(), words)
        return (logits, features) if with_features else logits

    def save(self, folder: str | Path) -> None:
        """Write the student to a folder: student.safetensors, and student.json with all that it takes to build and use it.

        The description has the network, the class names, words and colours, the preprocessing, the provenance and the
        fingerprint of the weights, by which `load_student` refuses files of two different exports.
        """
        folder = Path(folder)
        words, state = self.vocabulary, {name: value.contiguous().cpu() for name, value in self.state_dict().items()}
        about = {
            "method": self.method,
            "student": self.settings,
            "classes": {
                "names": list(words.names),
                "prompts": {name: list(given) for name, given in zip(words.names[words.wordless :], words.words, strict=True)},
                "palette": [list(colour) for colour in words.colours],
                "unseen": list(words.unseen),
                "background": words.background,
            },
            "preprocessing": {
                "colours": "RGB in 0..1",
                "mean": list(IMAGENET_DEFAULT_MEAN),
                "std": list(IMAGENET_DEFAULT_STD),
                "multiple": self.multiple,
            },
            "weights_sha256": self.weights_sha256,
            "provenance": self.provenance,
        }
        with replacing(folder / WEIGHTS) as weights, replacing(folder / DESCRIPTION) as description:
            weights.write_bytes(save(state))
            description.write_text(json_text(about), encoding="utf-8", errors="surrogateescape")

    def segment(self, image: Image.Image, short_side: int | None = None, long_side: int | None = None) -> np.ndarray:
        """The label map of a picture at its own size, (H, W). The sides say at which size the network sees it."""
        return predict_image(self, image, Protocol(short_side=short_side, long_side=long_side))


def load_student(checkpoint: str | Path, classes: Vocabulary | Sequence[str] | None = None) -> Student:
    """The student in a folder of `Student.save` or in a checkpoint of `src/train.py`, in eval mode, without its teacher.

    Nothing that the files contain is run. `classes` None takes the student's own; others must have the same names.
    Raises `InputError` if the file is missing or holds no such student, or if the class names differ.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise InputError(f"no checkpoint {path} (model.checkpoint)")
    try:
        student = _from_folder(path) if path.is_dir() else _from_checkpoint(path)
    except InputError:
        raise
    except OSError as cause:
        raise InputError(f"cannot read {cause.filename or path} (model.checkpoint): {cause.strerror or cause}") from cause
    except Exception as cause:
        raise InputError(f"{path} is not a checkpoint of a MaskCLIP+ student ({type(cause).__name__}: {cause})") from cause
    if classes is not None and list(Vocabulary.of(classes).names) != list(student.vocabulary.names):
        raise InputError(
            f"the student in {path} knows {', '.join(student.vocabulary.names)}; "
            f"the classes asked for are {', '.join(Vocabulary.of(classes).names)}"
        )
    return student.eval()


def _from_checkpoint(path: Path) -> Student:
    content = torch.load(path, map_location="cpu", weights_only=True)
    settings, prefix = content["hyper_parameters"], "student."
    state = {name[len(prefix) :]: value for name, value in content["state_dict"].items() if name.startswith(prefix)}
    student = Student(
        settings["classes"], settings["embedding_dim"], provenance=settings["provenance"], **{**settings["student"], "weights": None}
    )
    student.load_state_dict(state)
    return student


def _from_folder(path: Path) -> Student:
    about = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    student = Student(about["classes"], provenance=about["provenance"], weights=None, **about["student"])
    student.load_state_dict(load((path / WEIGHTS).read_bytes()))
    if about["weights_sha256"] != student.weights_sha256:
        raise InputError(
            f"{path / WEIGHTS} and {DESCRIPTION} beside it are of two different exports (weights_sha256), as after an export that was "
            "killed: export the student to this folder again with python src/export.py"
        )
    return student
