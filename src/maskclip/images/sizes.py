"""Sizes of scaled images."""

from __future__ import annotations


def scaled_size(height: int, width: int, short_side: int | None, long_side: int | None, ratio: float = 1.0) -> tuple[int, int]:
    """Height and width in pixels of an image scaled to a short and a long side, each times `ratio`; the aspect ratio is kept.

    With both sides, the smaller of the two scales is used, as for "(2048, 512)" in mmsegmentation. With neither, the scale
    is `ratio`.
    """
    scales = [side / length for side, length in ((short_side, min(height, width)), (long_side, max(height, width))) if side is not None]
    scale = ratio * min(scales, default=1.0)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
