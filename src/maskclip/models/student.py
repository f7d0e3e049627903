"""The students of MaskCLIP+: segmentation networks with text embeddings as the classifier (section 3, MaskCLIP+)."""

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
    """A segmentation network that returns features in the text space and classifies them with frozen text embeddings.

    Logits are dot products of features and text embeddings, without bias, as in the released code. The logit of a class is
    that of its best word. A background class without words has one learned embedding, which is normalised when it is used.
    The text embeddings are part of the state dict, so that a saved student needs no CLIP.

    `classes`: the arguments of `Vocabulary`. `embedding_dim`: D, the channels of the features. `normalise=True` gives
    features unit length and `temperature` multiplies the logits; the released code does neither. `arch`, `encoder`,
    `weights` (None: random) and `options` describe the network, see `build_network`. `provenance`: what results record
    about the student.
    """

    mean: Tensor
    std: Tensor
    text_embeddings: Tensor
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
        self.register_buffer("mean", torch.tensor(self.network.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.network.std).view(3, 1, 1), persistent=False)

    @property
    def method(self) -> str:
        return str(self.provenance.get("method", "student"))

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the student's weights, text embeddings included."""
        return weights_sha256(self)

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        """The size in pixels, rounded up to a multiple of the network's, that the grid of logits covers for an image of this size."""
        multiple = self.network.multiple
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def classifier(self) -> Tensor:
        """Unit embeddings (W, D) of all words, class by class. A learned background comes first."""
        if self.background is None:
            return self.text_embeddings
        return torch.cat([F.normalize(self.background, dim=1), self.text_embeddings])

    def features(self, image: Tensor) -> Tensor:
        """Features (B, D, h, w) in the text space, at the network's stride, of RGB images (B, 3, H, W) in 0..1."""
        height, width = image.shape[-2:]
        rows, columns = self.covered_size(height, width)
        return self.network(F.pad((image - self.mean) / self.std, (0, columns - width, 0, rows - height)))

    def classify(self, features: Tensor, words: bool = False) -> Tensor:
        """Class logits (B, C, h, w) of features (B, D, h, w), or word logits (B, W, h, w) with `words=True`."""
        if self.normalise:
            features = F.normalize(features, dim=1)
        logits = self.temperature * torch.einsum("bdhw,cd->bchw", features, self.classifier())
        return logits if words else best_word(logits, self.vocabulary.logit_counts)

    def forward(self, image: Tensor, words: bool = False, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Class logits (B, C, h, w), at the network's stride, of RGB images (B, 3, H, W) in 0..1.

        `words=True` returns a logit for each word, (B, W, h, w). `with_features=True` returns a pair of the logits and the
        features (B, D, h, w).
        """
        features = self.features(image)
        with torch.autocast(image.device.type, enabled=False):  # as in MaskCLIP: half precision drops digits in which classes differ
            logits = self.classify(features.float(), words)
        return (logits, features) if with_features else logits

    def save(self, folder: str | Path) -> None:
        """Write the student to a folder, as student.safetensors and student.json; atomic for each file.

        The JSON describes the network, class names, words, colours, preprocessing and provenance. It also has the SHA-256 of
        the weights, so that `load_student` detects files of two different exports.
        """
        folder = Path(folder)
        classes, state = self.vocabulary, {name: value.contiguous().cpu() for name, value in self.state_dict().items()}
        content = {
            "method": self.method,
            "student": self.settings,
            "classes": {
                "names": list(classes.names),
                "prompts": {name: list(words) for name, words in zip(classes.names[classes.wordless :], classes.words, strict=True)},
                "palette": [list(colour) for colour in classes.colours],
                "unseen": list(classes.unseen),
                "background": classes.background,
            },
            "preprocessing": {
                "colours": "RGB in 0..1",
                "mean": list(self.network.mean),
                "std": list(self.network.std),
                "multiple": self.network.multiple,
            },
            "weights_sha256": self.weights_sha256,
            "provenance": self.provenance,
        }
        with replacing(folder / WEIGHTS) as weights, replacing(folder / DESCRIPTION) as description:
            weights.write_bytes(save(state))
            description.write_text(json_text(content), encoding="utf-8", errors="surrogateescape")

    def segment(self, image: Image.Image, short_side: int | None = None, long_side: int | None = None) -> np.ndarray:
        """Class indices (H, W) at the size of the image. `short_side`, `long_side`: its size in pixels for the network, see `Protocol`."""
        return predict_image(self, image, Protocol(short_side=short_side, long_side=long_side))


def load_student(checkpoint: str | Path, classes: Vocabulary | Sequence[str] | None = None) -> Student:
    """Load a student, in eval mode on the CPU, from a folder of `Student.save` or a checkpoint of `src/train.py`.

    Code in the files is never run. `classes`: raise an error unless the student has these class names.

    Raises `InputError` if the file is missing, cannot be read or contains no student, or if the class names differ.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise InputError(f"no checkpoint {path} (model.checkpoint): pass a checkpoint of src/train.py or a folder of src/export.py")
    try:
        student = _from_folder(path) if path.is_dir() else _from_checkpoint(path)
    except InputError:
        raise
    except OSError as cause:
        raise InputError(f"cannot read {cause.filename or path} (model.checkpoint): {cause.strerror or cause}") from cause
    except Exception as cause:
        raise InputError(
            f"{path} (model.checkpoint) is not a checkpoint of a MaskCLIP+ student ({type(cause).__name__}: {cause})"
        ) from cause
    if classes is not None and list(Vocabulary.of(classes).names) != list(student.vocabulary.names):
        raise InputError(
            f"the student in {path} was trained for the classes {', '.join(student.vocabulary.names)}, but the config has "
            f"{', '.join(Vocabulary.of(classes).names)}: choose classes=... with the names of the student"
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
    content = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    student = Student(content["classes"], provenance=content["provenance"], weights=None, **content["student"])
    student.load_state_dict(load((path / WEIGHTS).read_bytes()))
    if content["weights_sha256"] != student.weights_sha256:
        raise InputError(
            f"{path / WEIGHTS} and {DESCRIPTION} belong to two different exports (weights_sha256); an export to this folder may have "
            "been killed: export the student again with python src/export.py"
        )
    return student
