"""Samplers: every image exactly once in evaluation, numbered draws in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized

import torch
from torch.utils.data import Sampler

from maskclip.data.dataset import Draw
from maskclip.data.seeds import permutation_seed


class EveryNth(Sampler[int]):
    """The indices rank, rank + world, ... of a data set: together, the processes read every image exactly once.

    torch's `DistributedSampler` repeats images to give all processes the same number, which changes the score.
    """

    def __init__(self, data: Sized, rank: int, world: int) -> None:
        self.indices = range(rank, len(data), world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class NumberedDraws(Sampler[Draw]):
    """An endless sequence of numbered training draws: a random permutation of the data for each epoch.

    Process `rank` of `world` takes every `world`-th block of `batch` draws, starting at draw `start`. If `start` is a function,
    it is called at the beginning of each iteration. Draw number k is the same image with the same augmentation for any
    number of processes, workers and restarts.
    """

    def __init__(self, data: Sized, seed: int, batch: int, rank: int = 0, world: int = 1, start: int | Callable[[], int] = 0) -> None:
        self.size, self.seed, self.batch = len(data), seed, batch
        self.rank, self.world = rank, world
        self.start = start if callable(start) else lambda: start

    def __iter__(self) -> Iterator[Draw]:
        first = self.start() + self.rank * self.batch
        while True:
            for number in range(first, first + self.batch):
                yield Draw(self.image(number), number)
            first += self.world * self.batch

    def image(self, number: int) -> int:
        """Index of the image of draw `number`."""
        epoch, position = divmod(number, self.size)
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(permutation_seed(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator).tolist()
        return self._order[position]
