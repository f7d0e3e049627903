"""Labels, probabilities and logits of images at their own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskclip.errors import InputError
from maskclip.images.reading import to_rgb
from maskclip.inference.labels import SOFT, Prediction, Rule, label_map
from maskclip.inference.protocol import NATIVE, Protocol
from maskclip.inference.segmenter import Segmenter
from maskclip.inference.tiles import full_logits
from maskclip.inference.views import coarse_logits, features_of_scaled_image


def rule_of(model: Segmenter, protocol: Protocol = NATIVE, soft: Sequence[str] = (), top: int = 0) -> Rule:
    """The rule that turns the logits of `model` into labels under `protocol`.

    Raises `InputError` if the protocol has a threshold but the classes have no background, or if the model cannot return
    the `soft` outputs or the `top` best classes.
    """
    if unknown := [name for name in soft if name not in SOFT]:
        raise InputError(f"predict cannot return {unknown[0]!r}: choose from {', '.join(SOFT)}")
    if not 0 <= top <= len(model.vocabulary):
        raise InputError(f"top={top}: there are {len(model.vocabulary)} classes")
    vocabulary, threshold, area = model.vocabulary, protocol.background_threshold, protocol.area_threshold
    for name, value in (("background_threshold", threshold), ("area_threshold", area)):
        if value is not None and not vocabulary.background:
            raise InputError(f"protocol.{name}={value} needs classes with a background, such as classes=voc21")
    if threshold is not None and len(vocabulary.words) < 2:
        raise InputError(f"protocol.background_threshold={threshold} needs two classes with words: a single class always has probability 1")
    if model.raw_votes and (soft or top or threshold is not None or area is not None or protocol.average == "probabilities"):
        option = ", ".join(soft) or (f"top={top}" if top else "a background or area threshold, or protocol.average=probabilities")
        raise InputError(f"{option} needs probabilities, which model.released.raw_votes=true does not provide: turn off one of them")
    return Rule(
        scale=model.logit_scale if protocol.logit_scale is None else protocol.logit_scale,
        threshold=model.background_threshold if threshold is None else threshold,
        counts=vocabulary.logit_counts if protocol.synonyms == "probability" else None,
        average=protocol.average,
        softmax=model.softmax_first,
        area=area,
    )


def check_features(protocol: Protocol) -> None:
    """Raise `InputError` if the protocol has several views or windows, whose features have no common grid."""
    if protocol.window is not None or protocol.scales is not None or protocol.flip:
        raise InputError("features=true needs a protocol with a single view: leave out window, scales and flip")


@torch.inference_mode()
def predict(
    model: Segmenter,
    images: Sequence[Tensor],
    protocol: Protocol = NATIVE,
    soft: Sequence[str] = (),
    top: int = 0,
    features: bool = False,
) -> list[Prediction]:
    """Predictions for images of any sizes, each (3, H, W) RGB, uint8 or float in 0..1; predictions have the size of their image.

    `soft`: outputs in addition to the labels, among "confidence", "margin" and "entropy". `top`: number of best classes to return.
    `features`: return the dense features of the same forward pass. An image of more than `protocol.max_pixels` is cut into
    windows for its labels, and scaled down to that size for its features, which takes another pass.

    Windows and views of one size share batches of up to `protocol.batch_size`, whatever image they belong to. The network runs
    on the model's device, and predictions stay there. Raises `InputError` for tensors that are not images and for outputs
    that the model cannot return.
    """
    rule = rule_of(model, protocol, soft, top)
    if features:
        check_features(protocol)
    predictions: dict[int, Prediction] = {}
    for index, views, image_features in coarse_logits(model, images, protocol, features):
        predictions[index] = label_map(views, rule, len(model.vocabulary), soft, top)
        if features:
            image_features = image_features or features_of_scaled_image(model, images[index], protocol)
            predictions[index] = replace(predictions[index], features=image_features)
    return [predictions[index] for index in range(len(images))]


@torch.inference_mode()
def predict_logits(model: Segmenter, image: Tensor, protocol: Protocol = NATIVE) -> Tensor:
    """Logits (B, C, H, W) at the size of `image` (B, 3, H, W), in one tensor.

    Channels are words instead of classes with `protocol.synonyms="probability"`. Raises `InputError` with
    `protocol.average="probabilities"`.
    """
    if protocol.average != "logits":
        raise InputError(f"protocol.average={protocol.average} yields probabilities and no logits: use protocol.average=logits")
    logits = {index: full_logits(views) for index, views, _ in coarse_logits(model, list(image), protocol)}
    return torch.stack([logits[index] for index in range(len(image))])


def predict_labels(model: Segmenter, image: Tensor, protocol: Protocol = NATIVE) -> Tensor:
    """Labels (B, H, W) at the size of `image` (B, 3, H, W), uint8, or int32 for more than 256 classes."""
    return torch.stack([prediction.labels for prediction in predict(model, list(image), protocol)])


def predict_image(model: Segmenter, image: Image.Image, protocol: Protocol = NATIVE) -> np.ndarray:
    """The label map (H, W) of a PIL image at its own size, uint8 or int32. The network runs on the model's device."""
    if not isinstance(image, Image.Image):
        raise InputError(f"expected an image opened with PIL, Image.open(path), not {type(image).__name__}")
    pixels = torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)
    return predict(model, [pixels], protocol)[0].labels.cpu().numpy()
