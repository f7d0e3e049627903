"""Predictions against loops over scales, flips and windows, and the options of `predict`."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maskclip import InputError, Prediction, Protocol, Vocabulary, predict, predict_labels, predict_logits
from maskclip.functional import best_word, resize
from maskclip.inference.labels import SOFT
from maskclip.inference.predict import predict_image
from maskclip.models.student import Student


class Blocks:
    """A segmenter of 8 x 8 blocks: class 1 where the mean red of a block is above a half. Records the size of its last input."""

    vocabulary = Vocabulary(["dark", "bright"])
    provenance: ClassVar[dict] = {}
    method = "blocks"
    logit_scale = 1.0
    background_threshold = None
    softmax_first = False
    raw_votes = False
    last_size: tuple[int, ...] = ()

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // 8) * 8, -(-width // 8) * 8

    def __call__(self, image: Tensor, /) -> Tensor:
        self.last_size = tuple(image.shape[-2:])
        rows, columns = self.covered_size(*self.last_size)
        padded = torch.nn.functional.pad(image[:, :1], (0, columns - self.last_size[1], 0, rows - self.last_size[0]))
        red = torch.nn.functional.avg_pool2d(padded, 8)
        return torch.cat([0.5 - red, red - 0.5], dim=1)


def test_labels_have_the_size_of_the_image() -> None:
    model = Blocks()
    image = torch.zeros(1, 3, 30, 41)
    image[..., 20:] = 1
    labels = predict_labels(model, image, Protocol(short_side=60))
    assert model.last_size == (60, 82)
    assert labels.shape == (1, 30, 41) and labels.dtype == torch.uint8
    assert (labels[..., :17] == 0).all() and (labels[..., 24:38] == 1).all()


def test_uint8_and_float_images_are_equal() -> None:
    pixels = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(predict_logits(Blocks(), pixels, Protocol()), predict_logits(Blocks(), pixels / 255, Protocol()))


def test_predict_image_converts_to_rgb() -> None:
    grey = Image.fromarray(np.full((9, 17), 200, dtype=np.uint8))
    assert predict_image(Blocks(), grey).shape == (9, 17)


class Noise(torch.nn.Module):
    """A segmenter of random features of 8 x 8 blocks. Records the shapes of its inputs."""

    vocabulary = Vocabulary(
        ["background", "cat", "sofa"], prompts={"background": ["sky", "wall"], "sofa": ["sofa", "couch"]}, background=True
    )
    provenance: ClassVar[dict] = {}
    method, weights_sha256 = "noise", None
    logit_scale, background_threshold, softmax_first, raw_votes = 3.0, None, False, False

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        self.weight = torch.nn.Parameter(weight / 4, requires_grad=False)
        self.shapes: list[tuple[int, ...]] = []

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // 8) * 8, -(-width // 8) * 8

    def forward(self, image: Tensor, words: bool = False, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        self.shapes.append(tuple(image.shape))
        rows, columns = self.covered_size(*image.shape[-2:])
        padded = F.pad(image, (0, columns - image.shape[-1], 0, rows - image.shape[-2]))
        logits = F.conv2d(padded - 0.5, self.weight, stride=8)
        scores = logits if words else best_word(logits, self.vocabulary.logit_counts)
        return (scores, logits) if with_features else scores


def sized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def view_logits(model: Noise, pixels: Tensor, window: int | None, stride: int | None, words: bool) -> Tensor:
    """Logits of an input (1, 3, h, w) at its size: the mean over windows, each upsampled and cropped."""
    height, width = pixels.shape[-2:]
    down, right = (min(window or side, side) for side in (height, width))
    tops, lefts = (sorted({min(i * (stride or side), side - win) for i in range(side)}) for side, win in ((height, down), (width, right)))
    total, times = 0, torch.zeros(height, width)
    for top in tops:
        for left in lefts:
            part = pixels[..., top : top + down, left : left + right]
            logits = sized(model(part, words=words), model.covered_size(down, right))[..., :down, :right]
            total = total + F.pad(logits, (left, width - left - right, top, height - top - down))
            times[top : top + down, left : left + right] += 1
    return total / times


def expected_prediction(model: Noise, image: Tensor, protocol: Protocol) -> tuple[Tensor, Tensor]:
    """Labels (H, W) and class probabilities (C, H, W), by loops over scales, flips and windows."""
    words, scale, maps = protocol.synonyms == "probability", protocol.logit_scale or model.logit_scale, []
    for size in protocol.input_sizes(*image.shape[1:]):
        for mirrored in (False, True) if protocol.flip else (False,):
            pixels = sized(image[None].float() / 255, size)
            logits = view_logits(model, pixels.flip(3) if mirrored else pixels, protocol.window, protocol.stride, words)
            maps.append(sized(logits.flip(3) if mirrored else logits, tuple(image.shape[1:]))[0])  # type: ignore[arg-type]
    if protocol.average == "logits":
        p = (scale * torch.stack(maps).mean(0)).softmax(0)
    else:
        p = torch.stack([(scale * logits).softmax(0) for logits in maps]).mean(0)
    if words:
        p = torch.stack([p[:2].amax(0), p[2], p[3:].amax(0)])
    kept = p.clone()
    if protocol.area_threshold is not None:
        winners = p.argmax(0)
        foreground = int((winners > 0).sum())
        for index in range(1, len(p)):
            if (winners == index).sum() <= protocol.area_threshold * foreground:
                kept[index] = 0
    best, labels = kept.max(0)
    return (labels if protocol.background_threshold is None else labels.masked_fill(best < protocol.background_threshold, 0)), p


PROTOCOLS = {
    "native": Protocol(),
    "resized": Protocol(short_side=40, long_side=70),
    "windows": Protocol(short_side=64, window=32, stride=16),
    "last windows overlap": Protocol(short_side=51, window=24, stride=24),
    "window over the short side": Protocol(short_side=40, window=48, stride=32),
    "window over all": Protocol(short_side=30, window=400, stride=100),
    "scales": Protocol(scales=[24, 40, 57], long_side=60),
    "flip": Protocol(short_side=45, flip=True),
    "probabilities": Protocol(scales=[24, 40], flip=True, average="probabilities"),
    "threshold": Protocol(short_side=40, background_threshold=0.5),
    "temperature": Protocol(short_side=40, background_threshold=0.4, logit_scale=1.5),
    "area": Protocol(short_side=40, area_threshold=0.45),
    "area and threshold": Protocol(short_side=45, flip=True, area_threshold=0.45, background_threshold=0.4),
    "area of all": Protocol(
        scales=[32, 50], window=32, stride=20, flip=True, average="probabilities", synonyms="probability", area_threshold=0.43
    ),
    "area of words": Protocol(short_side=64, window=32, stride=20, synonyms="probability", area_threshold=0.45, background_threshold=0.25),
    "words": Protocol(short_side=40, window=24, stride=16, synonyms="probability", background_threshold=0.4),
    "all": Protocol(
        scales=[32, 50], window=32, stride=20, flip=True, average="probabilities", synonyms="probability", background_threshold=0.35
    ),
}
IMAGES = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)) for size in ((57, 83), (90, 41))]
IMAGES.append(F.avg_pool2d(torch.rand(3, 57, 83, generator=torch.Generator().manual_seed(2)), 9, 1, 4).mul(255).byte())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_predictions_equal_those_of_loops(name: str) -> None:
    model, protocol = Noise(), PROTOCOLS[name]
    for image, prediction in zip(IMAGES, predict(model, IMAGES, protocol, SOFT, top=3), strict=True):
        labels, probabilities = expected_prediction(model, image, protocol)
        assert len(labels.unique()) > 1
        assert (prediction.labels != labels).sum() <= 1e-3 * labels.numel()  # a few pixels tie with a threshold
        assert (predict(model, [image], protocol)[0].labels != labels).sum() <= 1e-3 * labels.numel()
        torch.testing.assert_close(prediction.confidence, probabilities.amax(0), atol=2e-5, rtol=0)
        torch.testing.assert_close(prediction.top_probabilities, probabilities.sort(0, descending=True)[0], atol=2e-5, rtol=0)


def test_the_protocols_above_differ() -> None:
    labels = [predict_labels(Noise(), IMAGES[0][None], protocol) for protocol in PROTOCOLS.values()]
    same = [(i, j) for i in range(len(labels)) for j in range(i) if torch.equal(labels[i], labels[j])]
    assert not same and len({protocol.hash for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)


@pytest.mark.parametrize("name", ["native", "windows", "all"])
def test_the_batch_size_does_not_change_predictions(name: str) -> None:
    """Except for rounding: the order of summation in matrix products depends on the number of rows."""
    values = PROTOCOLS[name].settings
    predictions: list[list[Prediction]] = []
    for batch in (1, 3, 100):
        model = Noise()
        predictions.append(predict(model, IMAGES, Protocol(**values, batch_size=batch), ("confidence",)))
        assert max(shape[0] for shape in model.shapes) <= batch
    for others in predictions[1:]:
        for one, other in zip(predictions[0], others, strict=True):
            torch.testing.assert_close(one.confidence, other.confidence, atol=1e-6, rtol=0)
            assert (one.labels != other.labels).sum() <= 1e-4 * one.labels.numel()


def test_windows_of_one_size_share_batches() -> None:
    model = Noise()
    predict(model, [*IMAGES, IMAGES[0]], Protocol(short_side=64, window=32, stride=16, batch_size=1000))
    assert len(model.shapes) == 1
    predict(model, IMAGES, Protocol(batch_size=1000))
    assert sorted(model.shapes[1:]) == [(1, 3, 90, 41), (2, 3, 57, 83)]


def test_large_inputs_are_cut_into_windows(caplog: pytest.LogCaptureFixture) -> None:
    model, image = Noise(), torch.randint(0, 256, (3, 40, 1500), dtype=torch.uint8)
    with caplog.at_level(logging.WARNING):
        labels = [predict(model, [image], Protocol(max_pixels=50_001))[0].labels for _ in range(2)]
    assert {shape[-2:] for shape in model.shapes} == {(40, 1024)} and len(caplog.messages) == 1 and "1024" in caplog.messages[0]
    assert torch.equal(labels[0], predict(model, [image], Protocol(window=1024, stride=768))[0].labels)
    model.shapes.clear()
    predict(model, [image], Protocol(max_pixels=60_000))
    assert model.shapes == [(1, 3, 40, 1500)]


def test_windows_have_at_most_max_pixels() -> None:
    model, shape = Noise(), (3, 90, 200)
    predict(model, [torch.rand(shape)], Protocol(max_pixels=2000))
    assert {shape[-2:] for shape in model.shapes} == {(44, 44)}
    model.shapes.clear()
    predict(model, [torch.rand(3, 20, 200)], Protocol(max_pixels=2000))
    assert {shape[-2:] for shape in model.shapes} == {(20, 100)}


def test_features_need_no_second_forward_pass() -> None:
    model, protocol = Noise(), Protocol(short_side=48, batch_size=2)
    images = [IMAGES[0], IMAGES[1], IMAGES[0]]
    predictions = predict(model, images, protocol, features=True)
    assert sorted(model.shapes) == [(1, 3, 105, 48), (2, 3, 48, 70)]
    for image, prediction, plain in zip(images, predictions, predict(model, images, protocol), strict=True):
        assert prediction.features is not None and plain.features is None and torch.equal(prediction.labels, plain.labels)
        size = protocol.input_sizes(*image.shape[1:])[0]
        assert (prediction.features.input_size, prediction.features.covered_size) == (size, model.covered_size(*size))
        _, features = model(resize(image[None].float() / 255, size), with_features=True)
        torch.testing.assert_close(prediction.features.features, F.normalize(features, dim=1)[0].float())


def test_features_of_a_large_image_come_from_the_scaled_image() -> None:
    model, image = Noise(), torch.rand(3, 90, 200)
    prediction = predict(model, [image], Protocol(max_pixels=90 * 50), features=True)[0]
    assert prediction.labels.shape == (90, 200) and prediction.features is not None
    assert prediction.features.input_size == (45, 100) and model.shapes[-1] == (1, 3, 45, 100)
    with pytest.raises(InputError, match="features=true needs a protocol with a single view"):
        predict(model, [image], Protocol(window=32, stride=16), features=True)


def test_logits_at_full_size_agree_with_the_labels() -> None:
    protocol = PROTOCOLS["windows"]
    logits = predict_logits(Noise(), IMAGES[0][None], protocol)
    assert logits.shape == (1, 3, 57, 83)
    assert (logits.argmax(1) != predict_labels(Noise(), IMAGES[0][None], protocol)).sum() <= 1
    with pytest.raises(InputError, match=r"protocol\.average=probabilities"):
        predict_logits(Noise(), IMAGES[0][None], PROTOCOLS["probabilities"])


class RecordsType(Noise):
    def forward(self, image: Tensor, words: bool = False) -> Tensor:
        logits = super().forward(image, words)
        self.dtype = logits.dtype
        return logits


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_of_the_protocol_overrides_autocast(precision: Any, dtype: torch.dtype) -> None:
    model = RecordsType()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        confidence = predict(model, IMAGES[:1], Protocol(precision=precision), ("confidence",))[0].confidence
    assert model.dtype == dtype and confidence is not None and confidence.dtype == torch.float32
    exact = predict(model, IMAGES[:1], Protocol(), ("confidence",))[0].confidence
    torch.testing.assert_close(confidence, exact, atol=0 if precision == "fp32" else 0.05, rtol=0)


class Overflows(Noise):
    def forward(self, image: Tensor, words: bool = False) -> Tensor:
        logits = super().forward(image, words)
        return logits.index_fill(1, torch.tensor([1]), torch.nan) if image.max() == 1 else logits


@pytest.mark.parametrize(("precision", "remedy"), [("fp32", "the weights or an image are broken"), ("bf16", "try protocol.precision=fp32")])
def test_nan_is_an_error(precision: Any, remedy: str) -> None:
    with pytest.raises(InputError, match=f"the network returns NaN in {precision}: {remedy}"):
        predict(Overflows(), [torch.zeros(3, 16, 16), torch.ones(3, 16, 16)], Protocol(precision=precision))


class Votes(Noise):
    raw_votes = True


@pytest.mark.parametrize(
    ("protocol", "outputs", "message"),
    [
        (Protocol(), {"soft": ["margin"]}, "margin needs probabilities"),
        (Protocol(), {"top": 2}, "top=2 needs probabilities"),
        (Protocol(background_threshold=0.1), {}, "a background or area threshold, or"),
        (Protocol(area_threshold=0.1), {}, "a background or area threshold, or"),
        (Protocol(flip=True, average="probabilities"), {}, "model.released.raw_votes=true does not provide"),
    ],
)
def test_raw_votes_are_not_probabilities(protocol: Protocol, outputs: dict[str, Any], message: str) -> None:
    assert predict(Votes(), IMAGES[:1])[0].labels.shape == IMAGES[0].shape[1:]
    with pytest.raises(InputError, match=message):
        predict(Votes(), IMAGES[:1], protocol, **outputs)


def test_a_student_computes_logits_in_full_precision() -> None:
    student = Student({"names": ["a", "b"]}, 16, encoder="resnet18", weights=None).eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert student.features(torch.rand(1, 3, 64, 64)).dtype == torch.bfloat16
        assert student(torch.rand(1, 3, 64, 64)).dtype == torch.float32


def test_invalid_arguments_of_predict() -> None:
    for image in (torch.zeros(1, 3, 8, 8), torch.zeros(4, 8, 8), torch.zeros(3, 0, 8)):
        with pytest.raises(InputError, match=r"an image is \(3, H, W\)"):
            predict(Noise(), [image])
    with pytest.raises(InputError, match="uint8 or float"):
        predict(Noise(), [torch.zeros(3, 8, 8, dtype=torch.int64)])
    with pytest.raises(InputError, match="cannot return 'doubt'"):
        predict(Noise(), IMAGES, soft=["doubt"])
    with pytest.raises(InputError, match="top=4"):
        predict(Noise(), IMAGES, top=4)
    with pytest.raises(InputError, match=r"protocol.background_threshold=0.5 needs classes with a background"):
        predict(Blocks(), IMAGES, Protocol(background_threshold=0.5))
    with pytest.raises(InputError, match=r"protocol.area_threshold=0.5 needs classes with a background"):
        predict(Blocks(), IMAGES, Protocol(area_threshold=0.5))
    assert predict(Noise(), []) == []
