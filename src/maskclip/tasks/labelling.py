"""Where pseudo labels come from: the student's crops (the paper), whole images, or a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl

from maskclip.data.datamodule import SegmentationData
from maskclip.data.label_folder import LabelFolder
from maskclip.errors import InputError, is_count, require
from maskclip.inference.protocol import Protocol
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.restricted import RestrictedMaskCLIP
from maskclip.segmenting.inputs import InputImage
from maskclip.segmenting.outputs import Outputs
from maskclip.segmenting.running import Segmentation
from maskclip.segmenting.sharing import segment_share
from maskclip.tasks.maskclip_plus import MaskCLIPPlus

ListTodo = Callable[[Outputs, list[InputImage]], list[InputImage]]


class CropLabels:
    """The teacher labels the student's augmented crops at each step, as in the paper."""

    def prepare(self, data: SegmentationData, teacher: MaskCLIP, list_todo: ListTodo) -> list[pl.Callback]:
        """Prepare the data for training; returns the callbacks that the trainer needs."""
        return []


class FolderLabels:
    """Label maps in `folder` are the pseudo labels, see `LabelFolder`. Raises `InputError` if images lack one."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def prepare(self, data: SegmentationData, teacher: MaskCLIP, list_todo: ListTodo) -> list[pl.Callback]:
        """See `CropLabels.prepare`."""
        data.use_pseudo_labels(LabelFolder(self.folder, data.vocabulary, "pseudo_labels.folder"))
        return []


class PrecomputedLabels:
    """The teacher labels the whole, undistorted training images once, before training.

    The labels and their confidence are written to `folder`, as by `src/segment.py`. Finished images are not labelled again, so
    the folder may be that of an earlier run with the same teacher and protocol. `protocol`: how the teacher labels an image.
    `num_workers` processes read images, and `batch_size` of them are read together.
    """

    def __init__(self, folder: str, protocol: Protocol, batch_size: int = 1, num_workers: int = 2) -> None:
        for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            require(is_count(number, least), f"pseudo_labels.{name}", number, f"a whole number, at least {least}")
        self.folder, self.protocol = Path(folder), protocol
        self.batch_size, self.num_workers = batch_size, num_workers

    def prepare(self, data: SegmentationData, teacher: MaskCLIP, list_todo: ListTodo) -> list[pl.Callback]:
        """See `CropLabels.prepare`."""
        return [LabelImages(self, data, teacher, list_todo)]


class LabelImages(pl.Callback):
    """Labels the training images before training; the processes share the work."""

    def __init__(self, source: PrecomputedLabels, data: SegmentationData, teacher: MaskCLIP, list_todo: ListTodo) -> None:
        self.source, self.data, self.teacher, self.list_todo = source, data, teacher, list_todo
        self.outputs = Outputs(source.folder, data.vocabulary, overlays=False, soft=["confidence"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        images = self.data.readable("train")
        listed = [InputImage(str(images.image_path(name).absolute()), images.relative_path(name).as_posix()) for name in images.names]
        assert isinstance(pl_module, MaskCLIPPlus)
        if not (candidates := pl_module.teacher_classes.tolist()):
            raise InputError("pseudo_labels=precomputed with data.labels=all: there is nothing to label; use pseudo_labels=crop")
        teacher = RestrictedMaskCLIP(self.teacher, candidates).to(trainer.strategy.root_device).eval()
        source = self.source
        task = Segmentation(teacher, source.protocol, self.outputs, source.batch_size, source.num_workers, exif=images.exif)
        todo = trainer.strategy.broadcast(self.list_todo(self.outputs, listed) if trainer.is_global_zero else [])
        show_progress = trainer.progress_bar_callback is not None
        segment_share(task, todo, trainer.global_rank, trainer.world_size, show_progress and len(todo) > 0, "labelling images")
        if task.broken:
            raise InputError(f"{len(task.broken)} training images could not be labelled. First error: {task.broken[0][1]}")
        trainer.strategy.barrier()
        self.data.use_pseudo_labels(LabelFolder(source.folder, self.data.vocabulary, "pseudo_labels.folder"))
