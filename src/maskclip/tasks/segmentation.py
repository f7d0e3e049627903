"""Label maps for people's own pictures, on one process or several."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import distributed
from torch.utils.data import DataLoader

from maskclip.errors import InputError, is_count
from maskclip.inference.labels import Prediction
from maskclip.inference.predict import check_features, predict, rule_of
from maskclip.inference.protocol import Protocol
from maskclip.inference.segmenter import Segmenter
from maskclip.segmenting.inputs import Picture
from maskclip.segmenting.loading import Loaded, make_loader
from maskclip.segmenting.outputs import Outputs
from maskclip.segmenting.writers import Writers

MOST_IN_A_ROW = 20
"""After so many images in a row that fail in the network, the cause is not in the images."""


class Segmentation(pl.LightningModule):
    """Predicts images by the protocol and hands them to threads that write.

    `broken` are the images that could not be segmented, with the reasons; `several_pages` with
    `pages` "first" the names of those whose files have more. An error of one image does not stop the others, `MOST_IN_A_ROW` errors do.
    `prepare` is called once, on the first process, and returns the pictures that are to be done: the others are told, so that
    no process looks at a folder that another one has begun to fill. `batch_size` pictures go through in one step, `num_workers`
    processes read and `num_writers` threads write.
    """

    def __init__(
        self,
        model: Segmenter,
        protocol: Protocol,
        outputs: Outputs,
        prepare: Callable[[], Sequence[Picture]],
        batch_size: int = 1,
        num_workers: int = 2,
        num_writers: int = 2,
        pages: str = "first",
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer pictures than processes
        for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("num_writers", num_writers, 1)):
            if not is_count(number, least):
                raise InputError(f"{name}={number}: give a number, at least {least}")
        rule_of(model, protocol, outputs.soft, outputs.top)
        if outputs.features:
            check_features(protocol)
        self.model, self.protocol, self.outputs, self.prepare = model, protocol, outputs, prepare
        self.batch_size, self.num_workers, self.num_writers, self.pages = batch_size, num_workers, num_writers, pages
        self.todo: Sequence[Picture] = ()
        self.broken: list[tuple[Picture, str]] = []
        self.several_pages: list[str] = []
        self.failed_in_a_row = 0

    def setup(self, stage: str) -> None:
        """What is to be done and where, from the first process; what it cannot do stops all of them."""
        plan: tuple[Path, list[Picture]] | None = None
        problem: Exception | None = None
        if self.trainer.is_global_zero:
            try:
                plan = (self.outputs.folder, list(self.prepare()))
            except Exception as error:  # of any kind: the other processes wait for the plan
                problem = error
        plan = self.trainer.strategy.broadcast(plan)
        if problem is not None:
            raise problem
        if plan is None:
            sys.exit(2)  # the first process says why
        folder, self.todo = plan
        self.outputs = replace(self.outputs, folder=folder)  # its default holds the time, which may differ

    def predict_dataloader(self) -> DataLoader[Loaded]:
        processes = self.trainer.global_rank, self.trainer.world_size
        return make_loader(self.todo, *processes, self.batch_size, self.num_workers, count_pages=self.pages == "first")

    def transfer_batch_to_device(self, batch: list[Loaded], device: torch.device, dataloader_idx: int) -> list[Loaded]:
        """Pictures stay: their overlays are made on the CPU, and `predict` sends what the network needs."""
        return batch

    def on_predict_start(self) -> None:
        self.writers = Writers(self.num_writers)

    def predict_step(self, batch: list[Loaded], _: int) -> int:
        """How many pictures were looked at; nothing larger, as Lightning might keep it."""
        if self.trainer.received_sigterm:  # a cluster wants its machine back, and Lightning only notes it
            sys.exit(143)
        self.broken += [(picture, problem) for picture, pixels, problem, _ in batch if pixels is None]
        self.several_pages += [picture.name for picture, _, _, pages in batch if pages > 1]
        readable = [(picture, pixels) for picture, pixels, *_ in batch if pixels is not None]
        for (picture, pixels), prediction in self._predict(readable) if readable else ():
            self.writers.submit(partial(self._write, picture, pixels, prediction.cpu()))
        return len(batch)

    def _predict(self, readable: Sequence[tuple[Picture, np.ndarray]]) -> list[tuple[tuple[Picture, np.ndarray], Prediction]]:
        """Images with their predictions, without those that fail: a batch that fails is done one by one, to find out which do."""
        images = [torch.from_numpy(pixels).permute(2, 0, 1) for _, pixels in readable]
        try:
            predictions = predict(self.model, images, self.protocol, self.outputs.soft, self.outputs.top, self.outputs.features)
        except Exception as error:  # memory that is short for one large image is a RuntimeError
            self.failed_in_a_row += len(readable) == 1
            if self.failed_in_a_row == MOST_IN_A_ROW:
                raise
            why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        else:
            self.failed_in_a_row = 0
            return list(zip(readable, predictions, strict=True))
        if len(readable) > 1:  # not in the handler, which keeps the memory of the failed call
            return [pair for one in readable for pair in self._predict([one])]
        self.broken.append((readable[0][0], f"cannot segment {readable[0][0].path}: {why}"))
        return []

    def _write(self, picture: Picture, pixels: np.ndarray, prediction: Prediction) -> None:
        if problem := self.outputs.write(picture.name, pixels, prediction):
            self.broken.append((picture, problem))

    def on_predict_end(self) -> None:
        self.writers.close()

    def teardown(self, stage: str) -> None:
        """Brings `broken` and `several_pages` of all processes to each of them."""
        self.broken, self.several_pages = self._gathered(self.broken), self._gathered(self.several_pages)

    def _gathered(self, entries: list[Any]) -> list[Any]:
        gathered: list[list[Any]] = [entries]
        if distributed.is_available() and distributed.is_initialized():
            gathered = [[] for _ in range(self.trainer.world_size)]
            distributed.all_gather_object(gathered, entries)
        return sorted(entry for process in gathered for entry in process)
