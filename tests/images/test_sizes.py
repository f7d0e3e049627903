"""Sizes of scaled images."""

from __future__ import annotations

import pytest

from maskclip.images.sizes import scaled_size


@pytest.mark.parametrize(
    ("size", "short", "long", "ratio", "expected"),
    [
        ((375, 500), 512, 2048, 1.0, (512, 683)),
        ((375, 500), 512, 2048, 0.5, (256, 341)),
        ((375, 500), 512, 2048, 2.0, (1024, 1365)),
        ((100, 1000), 512, 2048, 1.0, (205, 2048)),
        ((375, 500), 520, 520, 1.0, (390, 520)),
        ((1024, 2048), 1024, 2048, 0.5, (512, 1024)),
        ((40, 60), None, None, 1.5, (60, 90)),
        ((1, 500), 512, 2048, 0.001, (1, 2)),
    ],
)
def test_sizes_of_the_published_recipes(
    size: tuple[int, int], short: int | None, long: int | None, ratio: float, expected: tuple[int, int]
) -> None:
    assert scaled_size(*size, short, long, ratio) == expected
