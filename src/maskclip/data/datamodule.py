"""The Lightning data module: training and evaluation sets of one data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from maskclip.data.dataset import Sample, SegmentationDataset
from maskclip.data.label_folder import LabelFolder
from maskclip.data.samplers import EveryNth, NumberedDraws
from maskclip.errors import InputError, is_count, require
from maskclip.images.reading import broken_images
from maskclip.vocabulary import Vocabulary

Pattern = str | Mapping[str, str | None]


class SegmentationData(pl.LightningDataModule):
    """Images and index masks under `root`, for training and evaluation.

    Files: `images` and `masks` are patterns, see `Listing`, or a pattern for each split, such as
    {"train": "train/%.png", "val": "val/%.png"}. `train`, `val` and `test` are split files; None lists all images that match.
    `split` is the split of the final evaluation; validation during training uses "val". `split_prefix`, `source`: see
    `Listing`. `reduce_zero_label`, `ignore`: see `MaskValues`. `exif`: see `SegmentationDataset`. `skip_broken` skips images
    that cannot be read, which are an error otherwise. `name`: the name of the data set on result cards.

    Training: `labels` selects the labels that training receives: "none" (annotation-free), "oracle_ignore" (annotation-free as
    in the released code: only which pixels are ignored), "seen" (zero-shot: all but the unseen classes) or "all". `truth` adds
    the hidden labels to each training sample, for logging only. `corrected`: a folder of masks that people have corrected;
    training images with a mask there count as labelled, see `LabelFolder`. `augmentation`: the arguments of `TrainTransform` except
    `seed` and `ignore_index`. `batch_size`: images per step in all processes together.

    Evaluation: batches are lists of `eval_batch_size` images, each at its own size. `corruption` and `severity` (1 to 5) apply to
    evaluation only.
    """

    def __init__(
        self,
        classes: Vocabulary | Sequence[str],
        root: str,
        images: Pattern,
        masks: Pattern | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        split: str = "val",
        split_prefix: str = "",
        ignore: Sequence[int] = (),
        reduce_zero_label: bool = False,
        labels: str = "all",
        truth: bool = True,
        corrected: str | None = None,
        augmentation: Mapping[str, Any] | None = None,
        corruption: str | None = None,
        severity: int = 1,
        skip_broken: bool = False,
        exif: bool = True,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        seed: int = 0,
        source: str = "",
        name: str = "",
    ) -> None:
        super().__init__()
        for key, on in {"reduce_zero_label": reduce_zero_label, "truth": truth, "skip_broken": skip_broken, "exif": exif}.items():
            require(isinstance(on, bool), f"data.{key}", on, "true or false")
        for key, number, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            require(is_count(number, least), f"data.{key}", number, f"a whole number, at least {least}")
        require(is_count(severity) and severity <= 5, "data.severity", severity, "a whole number from 1 to 5")
        self.vocabulary = Vocabulary.of(classes)
        self.name = name
        self.splits = {"train": train, "val": val, "test": test}
        self.images, self.masks = images, masks
        for key, pattern in (("images", images), ("masks", masks)):
            if isinstance(pattern, Mapping) and (unknown := sorted(set(pattern) - set(self.splits))):
                raise InputError(f"data.{key} has patterns for {', '.join(unknown)}: the splits are train, val and test")
        if split not in self.splits:
            raise InputError(f"data.split={split}: choose train, val or test")
        self.split = split
        self.files: dict[str, Any] = {
            "root": root,
            "split_prefix": split_prefix,
            "reduce_zero_label": reduce_zero_label,
            "ignore": ignore,
            "exif": exif,
            "source": source,
            "class_names": self.vocabulary.names,
        }
        self.skip_broken = skip_broken
        self._datasets: dict[str, SegmentationDataset] = {}
        self._readable: dict[str, SegmentationDataset] = {}
        self._problems: dict[Path, str | None] = {}
        self.corruption_options: dict[str, Any] = {"corruption": corruption, "severity": severity, "seed": seed}
        self.hide, self.labels, self.truth = self._hidden(labels), labels, truth
        self.corrected = None if corrected is None else LabelFolder(corrected, self.vocabulary, "data.corrected")
        self.pseudo: LabelFolder | None = None
        self.augmentation = dict(augmentation or {})
        self.batch_size, self.eval_batch_size, self.num_workers, self.seed = batch_size, eval_batch_size, num_workers, seed

    def _hidden(self, labels: str) -> Sequence[int] | str:
        """The labels that training does not receive, see `hide` of `SegmentationDataset`."""
        hidden: dict[str, Sequence[int] | str] = {
            "none": "all",
            "oracle_ignore": "valid",
            "seen": self.vocabulary.unseen_indices,
            "all": (),
        }
        if labels not in hidden:
            raise InputError(f"data.labels={labels!r}: choose one of {', '.join(hidden)}")
        if labels != "none" and (self.masks is None or (isinstance(self.masks, Mapping) and self.masks.get("train", "") is None)):
            raise InputError(f"data.labels={labels} needs masks (data.masks); without masks, set data.labels=none")
        if labels == "seen" and not self.vocabulary.unseen:
            raise InputError("data.labels=seen needs unseen classes, and this vocabulary has none (classes.unseen)")
        return hidden[labels]

    def pattern(self, key: str, split: str) -> str | None:
        """The pattern `data.images` or `data.masks` of a split. Raises `InputError` if the split has none."""
        pattern = {"images": self.images, "masks": self.masks}[key]
        if not isinstance(pattern, Mapping):
            if key == "images" and split == "test" and self.splits["test"] is None:
                raise InputError("there is no test split: give data.test, a split file, or a pattern for it in data.images")
            return pattern
        if split not in pattern:
            raise InputError(f"data.{key} has no pattern for the split {split}, only for {', '.join(pattern)}")
        return pattern[split]

    def dataset(self, split: str) -> SegmentationDataset:
        """The data set of a split ("train", "val" or "test") with all labels and without augmentation. Its files are listed once."""
        if split not in self._datasets:
            options: dict[str, Any] = {**self.files, "num_classes": len(self.vocabulary), "split": self.splits[split]}
            options |= {key: self.pattern(key, split) for key in ("images", "masks")}
            self._datasets[split] = SegmentationDataset(**options)
            for sentence in self._datasets[split].left_out.sentences():
                rank_zero_warn(sentence)
        return self._datasets[split]

    def readable(self, split: str) -> SegmentationDataset:
        """The data set of a split; with `skip_broken`, without the images that cannot be read, which logs a warning.

        Each file is decoded once, even if it is in several splits. Processes share the work: all of them must call this method.
        """
        if not self.skip_broken:
            return self.dataset(split)
        if split not in self._readable:
            data = self.dataset(split).with_options()
            paths = [data.image_path(name) for name in data.names]
            self._decode([path for path in dict.fromkeys(paths) if path not in self._problems])
            data.leave_out({path: why for path in paths if (why := self._problems[path]) is not None})
            if data.broken:
                first = next(iter(data.broken.values()))
                counts = f"{len(data.broken)} of {len(paths)} {split} images"
                rank_zero_warn(f"{counts} are skipped (data.skip_broken=true). First error: {first}")
            self._readable[split] = data
        return self._readable[split]

    def _decode(self, paths: Sequence[Path]) -> None:
        rank, world = self._processes
        own_share = broken_images(paths[rank::world])
        shares = [own_share] * world
        if world > 1:
            torch.distributed.all_gather_object(shares, own_share)
        problems = {path: why for share in shares for path, why in share.items()}
        self._problems |= {path: problems.get(path) for path in paths}

    def use_pseudo_labels(self, folder: LabelFolder) -> None:
        """Add the pseudo labels in a folder to training samples. Raises `InputError` if training images lack one."""
        self.readable("train").with_options(pseudo=folder)
        self.pseudo = folder

    @property
    def corrected_images(self) -> int:
        """The number of training images with a mask in `corrected`. Raises `InputError` if there is a folder without any."""
        return len(self.dataset("train").with_options(corrected=self.corrected).corrected_maps)

    @property
    def _processes(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader[Sample]:
        from maskclip.data.transforms import TrainTransform  # albumentations takes a second to import

        rank, world = self._processes
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        if self.batch_size % (world * accumulate):
            raise InputError(
                f"data.batch_size={self.batch_size} is for all processes together and must be a multiple of "
                f"{world} processes x {accumulate} accumulated steps"
            )
        each = self.batch_size // (world * accumulate)
        if each < 2:
            raise InputError(f"data.batch_size={self.batch_size} is one image per forward pass, and BatchNorm needs two")
        transform = TrainTransform(**self.augmentation, ignore_index=self.vocabulary.ignore_index, seed=self.seed)
        options: dict[str, Any] = {"hide": self.hide, "truth": self.truth, "pseudo": self.pseudo, "corrected": self.corrected}
        data = self.readable("train").with_options(transform=transform, **options)
        draws = NumberedDraws(data, self.seed, each, rank, world, start=self._drawn)
        return self._loader(data, sampler=draws, batch_size=each)

    def _drawn(self) -> int:
        """Number of draws so far in all processes together."""
        return self.trainer.global_step * self.batch_size if self.trainer else 0

    def val_dataloader(self) -> DataLoader[list[Sample]] | list[DataLoader[list[Sample]]]:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[list[Sample]] | list[DataLoader[list[Sample]]]:
        return self._evaluation_loader(self.split)

    def _evaluation_loader(self, split: str) -> DataLoader[list[Sample]] | list[DataLoader[list[Sample]]]:
        if self.pattern("masks", split) is None:
            return []  # no labels, no scores
        data = self.readable(split).with_options(**self.corruption_options)
        if len(data) < self._processes[1]:
            raise InputError(f"{len(data)} images ({split}) cannot be shared among {self._processes[1]} processes: use fewer")
        return self._loader(data, sampler=EveryNth(data, *self._processes), batch_size=self.eval_batch_size, collate_fn=list)

    def _loader(self, data: SegmentationDataset, **options: Any) -> DataLoader[Any]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        if self.num_workers:
            options |= {"persistent_workers": True, "prefetch_factor": 4, "worker_init_fn": one_thread}
        return DataLoader(data, num_workers=self.num_workers, pin_memory=on_gpu, **options)


def one_thread(_: int) -> None:
    """Use one OpenCV thread in each worker: workers already use all cores."""
    cv2.setNumThreads(0)
