"""Segment a list of images: read, predict and write at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from maskclip.errors import InputError, is_count, require
from maskclip.inference.labels import Prediction
from maskclip.inference.predict import check_features, predict, rule_of
from maskclip.inference.protocol import Protocol
from maskclip.inference.segmenter import Segmenter
from maskclip.segmenting.inputs import InputImage
from maskclip.segmenting.loading import Loaded, make_loader
from maskclip.segmenting.outputs import Outputs
from maskclip.segmenting.writers import Writers

MAX_FAILURES_IN_A_ROW = 20
"""After so many consecutive failures in the network, the cause is not in the images."""


class Segmentation:
    """Segments images under a protocol and writes their outputs.

    `batch_size` images are read together, `num_workers` processes read and `num_writers` threads write. The model must be
    on its device and in eval mode. `exif`: read images as displayed, not as stored. Raises `InputError` for invalid numbers
    and for outputs that the protocol does not allow.

    `broken` collects the images that could not be segmented, with the reasons. With `pages` "first", `several_pages`
    collects the names of the images whose files have further pages.
    """

    def __init__(
        self,
        model: Segmenter,
        protocol: Protocol,
        outputs: Outputs,
        batch_size: int = 1,
        num_workers: int = 2,
        num_writers: int = 2,
        pages: str = "first",
        exif: bool = True,
    ) -> None:
        for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("num_writers", num_writers, 1)):
            require(is_count(number, least), name, number, f"a whole number, at least {least}")
        rule_of(model, protocol, outputs.soft, outputs.top)
        if outputs.features:
            check_features(protocol)
        self.model, self.protocol, self.outputs = model, protocol, outputs
        self.batch_size, self.num_workers, self.num_writers = batch_size, num_workers, num_writers
        self.pages, self.exif = pages, exif
        self.broken: list[tuple[InputImage, str]] = []
        self.several_pages: list[str] = []
        self.failures_in_a_row = 0

    def run(self, images: Sequence[InputImage], progress: Callable[[int], object] = lambda count: None) -> None:
        """Segment the images; `progress` is called with the number of images in each finished batch.

        An error of one image does not stop the others. Raises the error of an image after `MAX_FAILURES_IN_A_ROW` of them,
        and `InputError` if the disk is full.
        """
        with Writers(self.num_writers) as writers:
            for batch in make_loader(images, self.batch_size, self.num_workers, self.pages == "first", self.exif):
                self._segment(batch, writers)
                progress(len(batch))

    def _segment(self, batch: Sequence[Loaded], writers: Writers) -> None:
        self.broken += [(image, problem) for image, pixels, problem, _ in batch if pixels is None]
        self.several_pages += [image.name for image, _, _, pages in batch if pages > 1]
        readable = [(image, pixels) for image, pixels, *_ in batch if pixels is not None]
        for (image, pixels), prediction in self._predict(readable) if readable else ():
            writers.submit(partial(self._write, image, pixels, prediction.cpu()))

    def _predict(self, readable: Sequence[tuple[InputImage, np.ndarray]]) -> list[tuple[tuple[InputImage, np.ndarray], Prediction]]:
        """Images with their predictions, without those that fail. The images of a batch that fails are repeated one by one."""
        tensors = [torch.from_numpy(pixels).permute(2, 0, 1) for _, pixels in readable]
        try:
            predictions = predict(self.model, tensors, self.protocol, self.outputs.soft, self.outputs.top, self.outputs.features)
        except Exception as error:  # out of memory for one large image is a RuntimeError
            self.failures_in_a_row += len(readable) == 1
            if self.failures_in_a_row == MAX_FAILURES_IN_A_ROW:
                raise
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        else:
            self.failures_in_a_row = 0
            return list(zip(readable, predictions, strict=True))
        if len(readable) > 1:  # not in the handler, which keeps the memory of the failed call
            return [pair for one in readable for pair in self._predict([one])]
        ((image, _),) = readable
        self.broken.append((image, f"cannot segment {image.path}: {reason}"))
        return []

    def _write(self, image: InputImage, pixels: np.ndarray, prediction: Prediction) -> None:
        if problem := self.outputs.write(image.name, pixels, prediction):
            self.broken.append((image, problem))
