"""Seeds of independent random streams, each a function of the run's seed and of what the stream is for.

There are three functions because a change of any of them would change existing results. For a new stream, use numpy's
`SeedSequence`, as the textures data set does: `np.random.default_rng([seed, index])`.
"""

from __future__ import annotations

import hashlib

import numpy as np


def permutation_seed(seed: int, epoch: int) -> int:
    """Seed (63 bits) of the order of the images in an epoch; both arguments are at least 0.

    This is the xxHash64 of the two numbers, in the variant that CPython 3.8 and newer use for tuples. It is written out because
    Python does not guarantee the value of `hash((seed, epoch))`, and another order would change every trained student.
    """
    bits, accumulated = 2**64 - 1, 2870177450012600261
    for number in (seed, epoch):
        accumulated = (accumulated + number % (2**61 - 1) * 14029467366897019727) & bits
        accumulated = (accumulated << 31 | accumulated >> 33) & bits
        accumulated = accumulated * 11400714785074694791 & bits
    return (accumulated + (2 ^ 2870177450012600261 ^ 3527539)) % 2**63


def augmentation_seed(seed: int, number: int) -> int:
    """Seed (32 bits, all that albumentations accepts) of the augmentation of draw `number`."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def corruption_generator(kind: str, severity: int, name: str, seed: int) -> np.random.Generator:
    """Random numbers for the corruption of the image `name`; every combination of arguments has its own.

    The arguments are hashed with SHA-256, because `SeedSequence` accepts numbers only.
    """
    key = f"{seed}\n{kind}\n{severity}\n{name}".encode(errors="backslashreplace")  # file names may be invalid Unicode
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest(), "big"))
