from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskclip import InputError, Protocol, Vocabulary, predict_labels, predict_logits
from maskclip.inference import predict_image


class Blocks:
    """A segmenter of whole 8 x 8 blocks: class 1 where the block's mean red is above a half. It remembers what it saw."""

    vocabulary = Vocabulary(["dark", "bright"])
    provenance: ClassVar[dict] = {}
    method = "blocks"
    logit_scale = 1.0
    background_threshold = None
    softmax_first = False
    saw: tuple[int, ...] = ()

    def covered_size(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // 8) * 8, -(-width // 8) * 8

    def __call__(self, image: Tensor, /) -> Tensor:
        self.saw = tuple(image.shape[-2:])
        rows, columns = self.covered_size(*self.saw)
        padded = torch.nn.functional.pad(image[:, :1], (0, columns - self.saw[1], 0, rows - self.saw[0]))
        red = torch.nn.functional.avg_pool2d(padded, 8)
        return torch.cat([0.5 - red, red - 0.5], dim=1)


@pytest.mark.parametrize(
    ("protocol", "size", "expected"),
    [
        (Protocol(), (375, 500), (375, 500)),
        (Protocol(long_side=520), (375, 500), (390, 520)),
        (Protocol(long_side=520), (500, 375), (520, 390)),
        (Protocol(short_side=512, long_side=2048), (375, 500), (512, 683)),
        (Protocol(short_side=512, long_side=2048), (100, 1000), (205, 2048)),
        (Protocol(short_side=1), (500, 3), (167, 1)),
        (Protocol(long_side=10), (1000, 1), (10, 1)),
    ],
)
def test_input_sizes_of_the_published_protocols(protocol: Protocol, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert protocol.input_sizes(*size) == [expected]


def test_prediction_comes_back_at_the_images_size() -> None:
    model = Blocks()
    image = torch.zeros(1, 3, 30, 41)
    image[..., 20:] = 1
    labels = predict_labels(model, image, Protocol(short_side=60))
    assert model.saw == (60, 82)
    assert labels.shape == (1, 30, 41) and labels.dtype == torch.uint8
    assert (labels[..., :17] == 0).all() and (labels[..., 24:38] == 1).all()


def test_bytes_and_floats_are_the_same_picture() -> None:
    pixels = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(predict_logits(Blocks(), pixels, Protocol()), predict_logits(Blocks(), pixels / 255, Protocol()))


def test_predict_image_reads_pictures_as_viewers_do() -> None:
    grey = Image.fromarray(np.full((9, 17), 200, dtype=np.uint8))
    assert predict_image(Blocks(), grey).shape == (9, 17)


def test_bad_protocol() -> None:
    with pytest.raises(InputError, match=r"protocol.short_side=0"):
        Protocol(short_side=0)
