"""Label maps for people's own pictures, on one process or several."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import distributed
from torch.utils.data import DataLoader

from maskclip.checks import is_count
from maskclip.errors import InputError
from maskclip.inference import Segmenter, check_features, predict, rule_of
from maskclip.protocol import Protocol
from maskclip.segmenting.inputs import Picture
from maskclip.segmenting.loading import Loaded, make_loader
from maskclip.segmenting.outputs import Outputs
from maskclip.segmenting.writers import Writers


class Segmentation(pl.LightningModule):
    """Predicts pictures by the protocol and hands them to threads that write; `broken` are those that could not be read, and why.

    `prepare` is called once, on the first process, and returns the pictures that are to be done: the others are told, so that
    no process looks at a folder that another one has begun to fill. `batch` pictures go through in one step, `num_workers`
    processes read and `num_writers` threads write.
    """

    def __init__(
        self,
        model: Segmenter,
        protocol: Protocol,
        outputs: Outputs,
        prepare: Callable[[], Sequence[Picture]],
        batch: int = 1,
        num_workers: int = 2,
        num_writers: int = 2,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer pictures than processes
        for name, number, least in (("batch", batch, 1), ("num_workers", num_workers, 0), ("num_writers", num_writers, 1)):
            if not is_count(number, least):
                raise InputError(f"{name}={number}: give a number, at least {least}")
        rule_of(model, protocol, outputs.soft, outputs.top)
        if outputs.features:
            check_features(protocol)
        self.model, self.protocol, self.outputs, self.prepare = model, protocol, outputs, prepare
        self.batch, self.num_workers, self.num_writers = batch, num_workers, num_writers
        self.todo: Sequence[Picture] = ()
        self.broken: list[tuple[Picture, str]] = []

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
        return make_loader(self.todo, self.trainer.global_rank, self.trainer.world_size, self.batch, self.num_workers)

    def transfer_batch_to_device(self, batch: list[Loaded], device: torch.device, dataloader_idx: int) -> list[Loaded]:
        """Pictures stay: their overlays are made on the CPU, and `predict` sends what the network needs."""
        return batch

    def on_predict_start(self) -> None:
        self.writers = Writers(self.num_writers)

    def predict_step(self, batch: list[Loaded], _: int) -> int:
        """How many pictures were looked at; nothing larger, as Lightning might keep it."""
        if self.trainer.received_sigterm:  # a cluster wants its machine back, and Lightning only notes it
            sys.exit(143)
        self.broken += [(picture, problem) for picture, pixels, problem in batch if pixels is None]
        readable = [(picture, pixels) for picture, pixels, _ in batch if pixels is not None]
        if readable:
            images = [torch.from_numpy(pixels).permute(2, 0, 1) for _, pixels in readable]
            predictions = predict(self.model, images, self.protocol, self.outputs.soft, self.outputs.top, self.outputs.features)
            for (picture, pixels), prediction in zip(readable, predictions, strict=True):
                self.writers.submit(partial(self.outputs.write, picture.name, pixels, prediction.cpu()))
        return len(batch)

    def on_predict_end(self) -> None:
        self.writers.close()

    def teardown(self, stage: str) -> None:
        """The broken pictures of all processes, on each of them."""
        if distributed.is_available() and distributed.is_initialized():
            gathered: list[list[tuple[Picture, str]]] = [[] for _ in range(self.trainer.world_size)]
            distributed.all_gather_object(gathered, self.broken)
            self.broken = sorted(entry for process in gathered for entry in process)
