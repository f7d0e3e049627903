"""Evaluation of any model on the validation split of any data set."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import Tensor
from torchmetrics import SumMetric

from maskclip.data.dataset import Sample
from maskclip.evaluation.scores import Confusion
from maskclip.inference.predict import predict
from maskclip.inference.protocol import Protocol
from maskclip.inference.segmenter import Segmenter


class Evaluation(pl.LightningModule):
    """Predicts every image by the protocol and counts pixels; `counts` holds the pixels over all processes afterwards,
    rows are the truth, and `images` how many images there were."""

    def __init__(self, model: Segmenter, protocol: Protocol, num_classes: int) -> None:
        super().__init__()
        self.model = model
        self.protocol = protocol
        self.confusion = Confusion(num_classes)
        self.seen = SumMetric()
        self.counts: Tensor | None = None
        self.images = 0

    def test_step(self, samples: list[Sample], _: int) -> dict[str, Tensor]:
        """Labels (H, W) of each image by its name."""
        predictions = predict(self.model, [sample["image"] for sample in samples], self.protocol)
        for sample, prediction in zip(samples, predictions, strict=True):
            self.confusion.update(prediction.labels, sample["mask"])
        self.seen.update(len(samples))
        return {sample["name"]: prediction.labels for sample, prediction in zip(samples, predictions, strict=True)}

    def on_test_epoch_end(self) -> None:
        self.counts = self.confusion.compute().cpu()
        self.images = int(self.seen.compute())
