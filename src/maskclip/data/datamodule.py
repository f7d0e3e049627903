"""The Lightning data module: one train and one validation set of the same kind of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from maskclip.data.dataset import Sample, SegmentationDataset
from maskclip.data.samplers import EveryNth, NumberedDraws
from maskclip.errors import InputError
from maskclip.vocabulary import Vocabulary


class SegmentationData(pl.LightningDataModule):
    """Images and index masks under `root`; the patterns are those of `SegmentationDataset`.

    `train` and `val` are split files (None: every image that fits). `labels` says what a learner may see in training:
    "none" (annotation-free; nothing at all), "oracle_ignore" (annotation-free as released: only which pixels are
    ignored), "seen" (zero-shot: all but the unseen classes) or "all"; `truth` hands out what is hidden beside it, for the
    log alone. `augmentation` are the arguments of
    `TrainTransform` other than the seed. `batch_size` is that of all processes together in training; evaluation hands out
    lists of `eval_batch` images, each at its own size. `corruption` and `severity` (1 to 5) spoil the images of evaluation, never those of
    training. `skip_broken` leaves out pictures that cannot be read, which else are an error. `source` is a sentence on
    where to get the data, for whoever does not have it.
    """

    def __init__(
        self,
        classes: Vocabulary | Sequence[str],
        root: str,
        images: str,
        masks: str | None = None,
        train: str | None = None,
        val: str | None = None,
        reduce_zero_label: bool = False,
        labels: str = "all",
        truth: bool = True,
        augmentation: Mapping[str, Any] | None = None,
        corruption: str | None = None,
        severity: int = 1,
        skip_broken: bool = False,
        batch_size: int = 16,
        eval_batch: int = 1,
        num_workers: int = 2,
        seed: int = 0,
        source: str = "",
        name: str = "",
    ) -> None:
        super().__init__()
        self.vocabulary = Vocabulary.of(classes)
        self.name = name
        self.splits = {"train": train, "val": val}
        self.files: dict[str, Any] = {
            "root": root,
            "images": images,
            "masks": masks,
            "reduce_zero_label": reduce_zero_label,
            "skip_broken": skip_broken,
            "source": source,
        }
        self.spoiled: dict[str, Any] = {"corruption": corruption, "severity": severity, "seed": seed}
        hidden: dict[str, Sequence[int] | str] = {
            "none": "all",
            "oracle_ignore": "valid",
            "seen": self.vocabulary.unseen_indices,
            "all": (),
        }
        if labels not in hidden:
            raise InputError(f"data.labels={labels!r}: choose one of {', '.join(hidden)}")
        if masks is None and labels != "none":
            raise InputError(f"data.labels={labels} needs masks (data.masks); without any, say data.labels=none")
        if labels == "seen" and not self.vocabulary.unseen:
            raise InputError("data.labels=seen needs unseen classes, and this vocabulary names none (classes.unseen)")
        self.hide, self.labels, self.truth = hidden[labels], labels, truth
        self.augmentation = dict(augmentation or {})
        self.batch_size, self.eval_batch, self.num_workers, self.seed = batch_size, eval_batch, num_workers, seed

    def dataset(self, split: str, **options: Any) -> SegmentationDataset:
        """The data set of a split ("train" or "val") without augmentation, all labels shown; "val" spoiled if so asked."""
        options |= self.spoiled if split == "val" else {}
        data = SegmentationDataset(**self.files, split=self.splits[split], num_classes=len(self.vocabulary), **options)
        for sentence in data.left_out.sentences():
            rank_zero_warn(sentence)
        return data

    @property
    def _processes(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader[Sample]:
        from maskclip.data.transforms import TrainTransform  # albumentations takes a second to import

        rank, world = self._processes
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        if self.batch_size % (world * accumulate):
            raise InputError(
                f"data.batch_size={self.batch_size} is the batch of all processes together and cannot be divided by "
                f"{world} processes x {accumulate} accumulated steps"
            )
        each = self.batch_size // (world * accumulate)
        if each < 2:
            raise InputError(f"data.batch_size={self.batch_size} leaves one image at a time, and BatchNorm needs two")
        transform = TrainTransform(**self.augmentation, ignore_index=self.vocabulary.ignore_index, seed=self.seed)
        data = self.dataset("train", hide=self.hide, truth=self.truth, transform=transform)
        draws = NumberedDraws(data, self.seed, each, rank, world, start=self._drawn)
        return self._loader(data, sampler=draws, batch_size=each)

    def _drawn(self) -> int:
        """How many draws the optimiser has seen so far, over all processes."""
        return self.trainer.global_step * self.batch_size if self.trainer else 0

    def val_dataloader(self) -> DataLoader[list[Sample]] | list[DataLoader[list[Sample]]]:
        if self.files["masks"] is None:
            return []  # nothing to score
        data = self.dataset("val")
        if len(data) < self._processes[1]:
            raise InputError(f"{len(data)} validation images cannot be shared among {self._processes[1]} processes: take fewer")
        return self._loader(data, sampler=EveryNth(data, *self._processes), batch_size=self.eval_batch, collate_fn=list)

    test_dataloader = val_dataloader

    def _loader(self, data: SegmentationDataset, **options: Any) -> DataLoader[Any]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        if self.num_workers:
            options |= {"persistent_workers": True, "prefetch_factor": 4, "worker_init_fn": one_thread}
        return DataLoader(data, num_workers=self.num_workers, pin_memory=on_gpu, **options)


def one_thread(_: int) -> None:
    """Keep OpenCV to one thread in a worker: workers are as many as there are cores."""
    cv2.setNumThreads(0)
