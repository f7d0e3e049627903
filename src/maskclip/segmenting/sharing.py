"""Segment a list of images in several processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from torch import distributed
from tqdm import tqdm

from maskclip.segmenting.inputs import InputImage
from maskclip.segmenting.running import Segmentation


def segment_share(
    task: Segmentation, todo: Sequence[InputImage], rank: int, count: int, show_progress: bool, title: str = "segmenting"
) -> None:
    """Segment the share of process `rank` of `count`, every n-th image; afterwards each process has the failures of all.

    The progress bar is that of the first process. If the output goes to a file, it is updated every half minute.
    """
    share = todo[rank::count]
    with tqdm(
        total=len(share),
        desc=title + (f" (process 1 of {count})" if count > 1 else ""),
        unit="image",
        mininterval=0.1 if sys.stderr.isatty() else 30,
        disable=rank > 0 or not show_progress,
        dynamic_ncols=True,
    ) as bar:
        task.run(share, bar.update)
    task.broken, task.several_pages = gather(task.broken), gather(task.several_pages)


def gather(entries: list[Any]) -> list[Any]:
    """The entries of all processes, sorted."""
    gathered = [entries]
    if distributed.is_available() and distributed.is_initialized():
        gathered = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(gathered, entries)
    return sorted(entry for process in gathered for entry in process)
