"""Which data a training run reads before it loads a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from maskclip.data.datamodule import SegmentationData
from maskclip.programs import training


class TeacherReachedError(Exception):
    pass


@pytest.mark.parametrize("images", ["%.jpg", "{train: train/%.jpg}"])
def test_without_masks_only_training_images_are_listed(
    images: str, compose_cfg: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jpg").write_bytes(b"")
    listed: list[str] = []
    real, dataset = training.build, SegmentationData.dataset

    def build(node: DictConfig, **options: object) -> object:
        if "data" not in node._target_:
            raise TeacherReachedError
        return real(node, **options)

    monkeypatch.setattr(training, "build", build)
    monkeypatch.setattr(SegmentationData, "dataset", lambda self, split: listed.append(split) or dataset(self, split))
    where = [f"data.root={tmp_path}", "data.labels=none", f"data.images={images}"]
    cfg = compose_cfg("train", "data=folder", "model@teacher=maskclip_textures", "classes.names=[cat]", *where)
    with pytest.raises(TeacherReachedError):
        training.train_student(cfg, tmp_path / "out")
    assert listed == ["train"]
