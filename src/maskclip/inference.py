"""How an image becomes a prediction: at which size the network sees it, and back to the size it came in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskclip.data.images import to_rgb
from maskclip.errors import InputError
from maskclip.functional import resize, upsample_logits
from maskclip.vocabulary import Vocabulary


class Segmenter(Interface):
    """What predicts: class logits (B, C, h, w) on a grid that covers `covered_size` pixels, for RGB in 0..1.

    `vocabulary` are its classes, `method` what a table calls it, `provenance` what made it, `weights_sha256` a
    fingerprint of its weights.
    """

    vocabulary: Vocabulary
    provenance: dict[str, Any]

    @property
    def method(self) -> str: ...

    @property
    def weights_sha256(self) -> str | None: ...

    def __call__(self, image: Tensor, /) -> Tensor: ...

    def covered_size(self, height: int, width: int) -> tuple[int, int]: ...

    def decide(self, logits: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Protocol:
    """The size at which a network sees an image, ratio kept: scaled up or down until a side is as long as given.

    Both None: the image's own size. With both, the smaller of the two scales counts (as "(2048, 512)" does in
    mmsegmentation). The whole image goes in at once.
    """

    short_side: int | None = None
    long_side: int | None = None

    def __post_init__(self) -> None:
        for name in ("short_side", "long_side"):
            side = getattr(self, name)
            if side is not None and (not isinstance(side, int) or side < 1):
                raise InputError(f"protocol.{name}={side}: give pixels, at least 1, or null for the image's own size")

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which an image of this height and width is seen."""
        scales = [side / of for side, of in ((self.short_side, min(height, width)), (self.long_side, max(height, width))) if side]
        if not scales:
            return height, width
        scale = min(scales)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


NATIVE = Protocol()


def predict_logits(model: Segmenter, image: Tensor, protocol: Protocol) -> Tensor:
    """Logits (B, C, H, W) at the size of `image` (B, 3, H, W), which is RGB, uint8 or float in 0..1."""
    height, width = image.shape[-2:]
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image
    seen = resize(pixels, protocol.input_size(height, width))
    size = (seen.shape[-2], seen.shape[-1])
    logits = upsample_logits(model(seen).float(), model.covered_size(*size), size)
    return resize(logits, (height, width))


@torch.inference_mode()
def predict_labels(model: Segmenter, image: Tensor, protocol: Protocol) -> Tensor:
    """The label of every pixel, (B, H, W), at the size of `image` (B, 3, H, W); uint8, int32 where there are more than 256 classes."""
    labels = model.decide(predict_logits(model, image, protocol))
    return labels.to(torch.uint8 if len(model.vocabulary) <= 256 else torch.int32)


def predict_image(model: Segmenter, image: Image.Image, protocol: Protocol = NATIVE) -> np.ndarray:
    """The label map of a picture at its own size, (H, W) uint8 or int32; the model's device is used."""
    if not isinstance(image, Image.Image):
        raise InputError(f"give a picture that PIL has opened, not {type(image).__name__}: Image.open(path)")
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None) if isinstance(model, torch.nn.Module) else None
    pixels = torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)[None].to(device)
    return predict_labels(model, pixels, protocol)[0].cpu().numpy()
