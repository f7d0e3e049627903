"""Dense features in the space of the text embeddings, for whoever wants to search or cluster instead of naming classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskclip.acceleration import forward_in
from maskclip.errors import InputError
from maskclip.functional import resize
from maskclip.inference import Segmenter
from maskclip.models.student import Student
from maskclip.protocol import Protocol


@dataclass(frozen=True)
class Features:
    """`features` (D, h, w) of unit length: cosines with text embeddings are their dot products.

    The network saw the picture scaled to `input_size` (height, width); the grid covers `covered_size`, which is that and
    what was padded at the bottom and right.
    """

    features: Tensor
    input_size: tuple[int, int]
    covered_size: tuple[int, int]


def check_features(protocol: Protocol) -> None:
    """Raise `InputError` for a protocol with several looks at a picture: their features are on no common grid."""
    if protocol.window is not None or protocol.scales is not None or protocol.flip:
        raise InputError("features=true needs a protocol that looks at a picture once: leave out window, scales and flip")


@torch.inference_mode()
def dense_features(model: Segmenter, image: Tensor, protocol: Protocol) -> Features:
    """Features of a picture (3, H, W) uint8, on the CPU, in full precision.

    The whole picture goes in at once: scaled down, ratio kept, if that would be more than `protocol.max_pixels`.
    """
    height, width = protocol.input_sizes(image.shape[1], image.shape[2])[0]
    shrink = min(1.0, math.sqrt(protocol.max_pixels / (height * width)))
    height, width = max(1, int(height * shrink)), max(1, int(width * shrink))
    seen = resize(image[None].float() / 255, (height, width))
    with forward_in("fp32", seen.device):  # without the model: if that is compiled, its tower alone is not
        found = model.features(seen) if isinstance(model, Student) else model.clip(seen)[0]  # type: ignore[attr-defined]
    return Features(F.normalize(found.float(), dim=1)[0].cpu(), (height, width), model.covered_size(height, width))
