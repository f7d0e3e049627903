"""How images become predictions: what the network sees of them, in which batches, and back to the size they came in."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maskclip.errors import InputError
from maskclip.functional import resize
from maskclip.images.reading import to_rgb
from maskclip.inference.kernels import forward_in
from maskclip.inference.labels import SOFT, Features, Prediction, Rule, View, full_logits, label_map
from maskclip.inference.protocol import NATIVE, Protocol, Size
from maskclip.inference.resampling import resample, window_starts, windows
from maskclip.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class Segmenter(Interface):
    """What predicts: logits on a grid that covers `covered_size` pixels, for RGB (B, 3, H, W) in 0..1.

    They are of the classes, (B, C, h, w), or, where asked for, of all `words`, (B, sum of `vocabulary.logit_counts`, h, w).
    `with_features` gives a pair, logits and the features (B, D, h, w) in the space of the text embeddings they are made from.
    `vocabulary` are the classes, `method` what a table calls it, `provenance` what made it, `weights_sha256` a
    fingerprint of its weights. `logit_scale` times logits go into a softmax; below `background_threshold` a pixel is background.
    `softmax_first`: the released code's habit, see `Released`; `raw_votes`: another, logits are no longer ones.
    """

    vocabulary: Vocabulary
    provenance: dict[str, Any]

    @property
    def method(self) -> str: ...

    @property
    def weights_sha256(self) -> str | None: ...

    @property
    def logit_scale(self) -> float: ...

    @property
    def background_threshold(self) -> float | None: ...

    @property
    def softmax_first(self) -> bool: ...

    @property
    def raw_votes(self) -> bool: ...

    def __call__(self, image: Tensor, /, *, words: bool = ..., with_features: bool = ...) -> Any: ...

    def covered_size(self, height: int, width: int) -> Size: ...


@dataclass(frozen=True)
class _Look:
    """One look at one image: at one scale, mirrored or not, cut into windows of one size."""

    image: int
    seen: Size
    mirrored: bool
    window: Size
    starts: tuple[list[int], list[int]]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Where its windows start, row by row."""
        return [(top, left) for top in self.starts[0] for left in self.starts[1]]


def rule_of(model: Segmenter, protocol: Protocol = NATIVE, soft: Sequence[str] = (), top: int = 0) -> Rule:
    """How the logits of a model become labels under a protocol, and the `soft` outputs and the `top` best classes.

    Raises `InputError` for a threshold without a background, and for what the model cannot say.
    """
    if strangers := [name for name in soft if name not in SOFT]:
        raise InputError(f"predict cannot say {strangers[0]!r}; it can say {', '.join(SOFT)}")
    if not 0 <= top <= len(model.vocabulary):
        raise InputError(f"top={top}: there are {len(model.vocabulary)} classes")
    vocabulary, threshold, area = model.vocabulary, protocol.background_threshold, protocol.area_threshold
    for name, value in (("background_threshold", threshold), ("area_threshold", area)):
        if value is not None and not vocabulary.background:
            raise InputError(f"protocol.{name}={value} needs classes with a background, such as classes=voc21")
    if threshold is not None and len(vocabulary.words) < 2:
        raise InputError(f"protocol.background_threshold={threshold} needs two classes with words: one is always certain")
    if model.raw_votes and (soft or top or threshold is not None or area is not None or protocol.average == "probabilities"):
        wanted = ", ".join(soft) or (f"top={top}" if top else "a background or area threshold, or protocol.average=probabilities")
        raise InputError(f"{wanted}: that needs probabilities, and model.released.raw_votes leaves none: give up one of the two")
    return Rule(
        scale=model.logit_scale if protocol.logit_scale is None else protocol.logit_scale,
        threshold=model.background_threshold if threshold is None else threshold,
        counts=vocabulary.logit_counts if protocol.synonyms == "probability" else None,
        average=protocol.average,
        softmax=model.softmax_first,
        area=area,
    )


def check_features(protocol: Protocol) -> None:
    """Raise `InputError` for a protocol with several looks at an image: their features are on no common grid."""
    if protocol.window is not None or protocol.scales is not None or protocol.flip:
        raise InputError("features=true needs a protocol that looks at an image once: leave out window, scales and flip")


@torch.inference_mode()
def predict(
    model: Segmenter,
    images: Sequence[Tensor],
    protocol: Protocol = NATIVE,
    soft: Sequence[str] = (),
    top: int = 0,
    features: bool = False,
) -> list[Prediction]:
    """Predictions of images of any sizes, each (3, H, W) RGB, uint8 or float in 0..1, at the sizes they came in.

    `soft` names what is wanted besides labels, of "confidence", "margin" and "entropy"; `top` is how many best classes are.
    `features`: also the dense features, from the same forward pass; an image of more than `protocol.max_pixels`, which is
    cut into windows for its labels, is scaled down to that and seen once more for them.
    Windows and views of one size go through the network together, `protocol.batch` at a time, whatever image they are of.
    The model's device is used, and predictions stay there. Raises `InputError` for what is no image, or not known.
    """
    rule = rule_of(model, protocol, soft, top)
    if features:
        check_features(protocol)
    found: dict[int, Prediction] = {}
    for index, views, dense in _views(model, images, protocol, features):
        found[index] = label_map(views, rule, len(model.vocabulary), soft, top)
        if features:
            found[index] = replace(found[index], features=dense or _features_scaled_down(model, images[index], protocol))
    return [found[index] for index in range(len(images))]


@torch.inference_mode()
def predict_logits(model: Segmenter, image: Tensor, protocol: Protocol = NATIVE) -> Tensor:
    """Logits (B, C, H, W) at the size of `image` (B, 3, H, W), all at once; of words where `protocol.synonyms` needs them."""
    if protocol.average != "logits":
        raise InputError(f"protocol.average={protocol.average}: there are no logits to give, only probabilities")
    logits = {index: full_logits(views) for index, views, _ in _views(model, list(image), protocol)}
    return torch.stack([logits[index] for index in range(len(image))])


def predict_labels(model: Segmenter, image: Tensor, protocol: Protocol = NATIVE) -> Tensor:
    """The label of every pixel, (B, H, W), at the size of `image` (B, 3, H, W); uint8, int32 where there are more than 256 classes."""
    return torch.stack([prediction.labels for prediction in predict(model, list(image), protocol)])


def predict_image(model: Segmenter, image: Image.Image, protocol: Protocol = NATIVE) -> np.ndarray:
    """The label map of a picture at its own size, (H, W) uint8 or int32; the model's device is used."""
    if not isinstance(image, Image.Image):
        raise InputError(f"give a picture that PIL has opened, not {type(image).__name__}: Image.open(path)")
    pixels = torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)
    return predict(model, [pixels], protocol)[0].labels.cpu().numpy()


def _views(
    model: Segmenter, images: Sequence[Tensor], protocol: Protocol, with_features: bool = False
) -> Iterator[tuple[int, list[View], Features | None]]:
    """The views of each image, by its index, as soon as all its windows have gone through the network.

    With its features, if they are wanted and it went in whole.
    """
    looks = [look for index, image in enumerate(images) for look in _looks(index, image, protocol)]
    groups: dict[Size, list[tuple[int, int, int]]] = defaultdict(list)
    looks_of: dict[int, list[int]] = defaultdict(list)
    for number, look in enumerate(looks):
        looks_of[look.image].append(number)
        groups[look.window].extend((number, *place) for place in look.places)
    device = _device(model)

    @lru_cache(maxsize=1)  # the windows of a look follow each other
    def seen(number: int) -> Tensor:
        return _seen(images[looks[number].image].to(device), looks[number])

    logits: dict[int, list[Tensor]] = defaultdict(list)
    dense: dict[int, Features] = {}
    for (height, width), jobs in groups.items():
        for start in range(0, len(jobs), protocol.batch):
            chunk = jobs[start : start + protocol.batch]
            pixels = torch.stack([_floats(seen(number)[:, y : y + height, x : x + width]) for number, y, x in chunk])
            found, features = _forward(model, pixels, protocol, with_features)
            for (number, _, _), one in zip(chunk, found, strict=True):
                logits[number].append(one)
            if features is not None:
                whole = [(place, looks[number]) for place, (number, _, _) in enumerate(chunk) if looks[number].seen == (height, width)]
                dense |= {look.image: _features(model, features[place], look.seen) for place, look in whole}
            for index in sorted({looks[number].image for number, _, _ in chunk}):
                numbers = looks_of[index]
                if all(len(logits[number]) == len(looks[number].places) for number in numbers):
                    size = (images[index].shape[-2], images[index].shape[-1])
                    yield index, [_view(model, looks[number], logits.pop(number), size) for number in numbers], dense.pop(index, None)


def _looks(index: int, image: Tensor, protocol: Protocol) -> list[_Look]:
    if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
        raise InputError(f"an image is (3, H, W), not {tuple(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise InputError(f"an image is uint8 or float in 0..1, not {image.dtype}")
    looks = []
    for height, width in protocol.input_sizes(image.shape[1], image.shape[2]):
        cut = protocol.windows(height, width)
        if cut is not None and protocol.window is None:
            _say_cut(protocol.max_pixels, *cut)
        window, stride = cut or (max(height, width), 1)
        starts = (window_starts(height, window, stride), window_starts(width, window, stride))
        for mirrored in (False, True) if protocol.flip else (False,):
            looks.append(_Look(index, (height, width), mirrored, (min(window, height), min(window, width)), starts))
    return looks


@lru_cache
def _say_cut(max_pixels: int, window: int, stride: int) -> None:
    logger.warning("inputs of more than %d pixels (protocol.max_pixels) are cut into windows of %d every %d", max_pixels, window, stride)


def _device(model: Segmenter) -> torch.device | None:
    """Where the model is; None, which is where each image is, for one without tensors."""
    if not isinstance(model, torch.nn.Module):
        return None
    return next((t.device for t in (*model.parameters(), *model.buffers())), None)


def _floats(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


def _seen(image: Tensor, look: _Look) -> Tensor:
    """The image (3, h, w) as a look sees it; bytes stay bytes where nothing is resized."""
    if image.shape[1:] != torch.Size(look.seen):
        image = resize(_floats(image)[None], look.seen)[0]
    return image.flip(2) if look.mirrored else image


def _forward(model: Segmenter, pixels: Tensor, protocol: Protocol, with_features: bool = False) -> tuple[Tensor, Tensor | None]:
    """Logits (B, C, h, w), and, if they are wanted, features (B, D, h, w)."""
    wanted = {"words": protocol.synonyms == "probability", "with_features": with_features}
    with forward_in(protocol.precision, pixels.device, model):
        found = model(pixels, **{name: True for name, on in wanted.items() if on})
    logits, features = found if with_features else (found, None)
    logits = logits.float()
    if logits.isnan().any():
        remedy = "weights or an image are broken" if protocol.precision == "fp32" else "try protocol.precision=fp32"
        raise InputError(f"the network gives no numbers (NaN) in {protocol.precision}: {remedy}")
    return logits, features


def _features(model: Segmenter, features: Tensor, seen: Size) -> Features:
    return Features(F.normalize(features.float(), dim=0), seen, model.covered_size(*seen))


def _features_scaled_down(model: Segmenter, image: Tensor, protocol: Protocol) -> Features:
    """Of an image that would be cut: it is scaled down, ratio kept, to `protocol.max_pixels`."""
    height, width = protocol.input_sizes(image.shape[1], image.shape[2])[0]
    shrink = math.sqrt(protocol.max_pixels / (height * width))
    size = max(1, int(height * shrink)), max(1, int(width * shrink))
    pixels = resize(_floats(image.to(_device(model)))[None], size)
    _, features = _forward(model, pixels, protocol, with_features=True)
    assert features is not None
    return _features(model, features[0], size)


def _view(model: Segmenter, look: _Look, logits: Sequence[Tensor], size: Size) -> View:
    """What a look says of an image of this size, from the logits (C, h, w) of each of its windows."""
    grid, covered = logits[0].shape[1:], model.covered_size(*look.window)
    rows, columns = (windows(grid[axis], covered[axis], look.window[axis], look.starts[axis], look.seen[axis]) for axis in (0, 1))
    columns = columns.flip(0) if look.mirrored else columns
    across = torch.stack(list(logits)).unflatten(0, (len(look.starts[0]), len(look.starts[1])))  # U x V x C x h x w
    board = across.permute(0, 3, 2, 1, 4).flatten(0, 1).flatten(2)
    return View(board, resample(rows, size[0]).to(board), resample(columns, size[1]).to(board))
