"""The data that a training run lists before it loads a model, and the settings of the student's execution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from maskclip import MaskCLIP
from maskclip.data.datamodule import SegmentationData
from maskclip.models.recomputing import Recomputing
from maskclip.programs import fitting, training
from maskclip.programs.config import words_of


class TeacherReachedError(Exception):
    pass


@pytest.mark.parametrize("images", ["%.jpg", "{train: train/%.jpg}"])
def test_without_masks_only_training_images_are_listed(
    images: str, compose_cfg: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jpg").write_bytes(b"")
    listed: list[str] = []
    real, dataset = fitting.build, SegmentationData.dataset

    def build(node: DictConfig, **options: object) -> object:
        if "data" not in node._target_:
            raise TeacherReachedError
        return real(node, **options)

    monkeypatch.setattr(fitting, "build", build)
    monkeypatch.setattr(SegmentationData, "dataset", lambda self, split: listed.append(split) or dataset(self, split))
    where = [f"data.root={tmp_path}", "data.labels=none", f"data.images={images}"]
    cfg = compose_cfg("train", "data=folder", "model@teacher=maskclip_textures", "classes.names=[cat]", *where)
    with pytest.raises(TeacherReachedError):
        training.train_student(cfg, tmp_path / "out")
    assert set(listed) == {"train"}


@pytest.mark.parametrize("on", [True, False])
def test_memory_layout_and_recomputing_of_the_student(
    on: bool, tiny: MaskCLIP, compose_cfg: Callable[..., DictConfig], textures_root: Path
) -> None:
    options = [f"data.root={textures_root}", f"channels_last={on}", f"recompute={on}"]
    cfg = compose_cfg("train", "experiment=textures_annotation_free", *options)
    data = training.build_data(cfg, tiny.vocabulary)
    network = training.build_task(cfg, words_of(cfg), data, tiny).student.network
    weights = [m.weight for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights if weight.shape[1] > 1) == on
    assert any(isinstance(module, Recomputing) for module in network.modules()) == on
