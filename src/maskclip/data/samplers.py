"""Which images a process sees, and in which order: exact in evaluation, numbered in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized

import torch
from torch.utils.data import Sampler

from maskclip.data.dataset import Draw


class EveryNth(Sampler[int]):
    """Indices rank, rank + world, ... of a data set: over all processes each image exactly once, none repeated.

    torch's DistributedSampler fills up the last round with images that were already seen, which changes the score.
    """

    def __init__(self, data: Sized, rank: int, world: int) -> None:
        self.indices = range(rank, len(data), world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class NumberedDraws(Sampler[Draw]):
    """Endless training draws: one random permutation of the data after another, each draw with its number.

    Process `rank` of `world` takes every `world`-th block of `batch` draws, from draw `start` on (a function is
    asked whenever an iteration begins). Draw number k is the same image with the same augmentation whatever the number
    of processes, workers or restarts.
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
        """The index of the image of draw `number`."""
        epoch, position = divmod(number, self.size)
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator).tolist()
        return self._order[position]


def mixed_seed(seed: int, epoch: int) -> int:
    """A seed of 63 bits for one epoch of a run, from two numbers that are not negative.

    xxHash64 of both, in the variant that CPython 3.8 and newer use for tuples. It is spelt out because Python does not
    promise the value of `hash((seed, epoch))`, and another order of the draws would change every trained student.
    """
    bits, accumulated = 2**64 - 1, 2870177450012600261
    for number in (seed, epoch):
        accumulated = (accumulated + number % (2**61 - 1) * 14029467366897019727) & bits
        accumulated = (accumulated << 31 | accumulated >> 33) & bits
        accumulated = accumulated * 11400714785074694791 & bits
    return (accumulated + (2 ^ 2870177450012600261 ^ 3527539)) % 2**63
