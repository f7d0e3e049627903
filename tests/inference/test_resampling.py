"""The matrices of resampling against `F.interpolate` and against loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maskclip.inference.resampling import resample, window_starts, windows

SIZES = [(1, 1), (1, 7), (7, 1), (5, 5), (3, 10), (10, 3), (32, 512), (43, 688), (683, 640), (17, 1000), (1000, 999)]


@pytest.mark.parametrize(("n_in", "n_out"), SIZES)
def test_resample_equals_interpolate(n_in: int, n_out: int) -> None:
    values = torch.randn(1, 4, n_in, dtype=torch.float64)
    matrix = resample(torch.eye(n_in, dtype=torch.float64), n_out)
    torch.testing.assert_close(values @ matrix.T, F.interpolate(values, size=n_out, mode="linear", align_corners=False), atol=1e-13, rtol=0)
    assert matrix.shape == (n_out, n_in) and matrix.dtype == torch.float64
    assert (matrix >= 0).all() and (matrix > 0).sum(1).max() <= 2
    torch.testing.assert_close(matrix.sum(1), torch.ones(n_out, dtype=torch.float64))


def test_resampling_a_map_composes_it_with_the_resize() -> None:
    first, second = resample(torch.eye(5), 17), resample(torch.eye(17), 11)
    torch.testing.assert_close(resample(first, 11), second @ first)


@pytest.mark.parametrize(
    ("size", "window", "stride", "expected"),
    [
        (10, 4, 2, [0, 2, 4, 6]),
        (11, 4, 2, [0, 2, 4, 6, 7]),
        (448, 224, 112, [0, 112, 224]),
        (450, 224, 112, [0, 112, 224, 226]),
        (4, 4, 3, [0]),
        (3, 4, 3, [0]),
        (5, 4, 4, [0, 1]),
    ],
)
def test_windows_cover_the_axis(size: int, window: int, stride: int, expected: list[int]) -> None:
    assert window_starts(size, window, stride) == expected
    assert {p for s in expected for p in range(s, min(s + window, size))} == set(range(size))


@pytest.mark.parametrize(("size", "window", "stride"), [(30, 12, 5), (13, 12, 12), (24, 12, 12), (9, 9, 4)])
def test_overlapping_windows_are_averaged(size: int, window: int, stride: int) -> None:
    grid, covered = 4, 16
    starts = window_starts(size, window, stride)
    values = torch.randn(len(starts), grid, dtype=torch.float64)
    total, times = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for start, one in zip(starts, values, strict=True):
        total[start : start + window] += F.interpolate(one[None, None], size=covered, mode="linear")[0, 0, :window]
        times[start : start + window] += 1
    matrix = windows(grid, covered, window, starts, size)
    torch.testing.assert_close(matrix @ values.flatten(), total / times)
    torch.testing.assert_close(matrix.sum(1), torch.ones(size, dtype=torch.float64))
