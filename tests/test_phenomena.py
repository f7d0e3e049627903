"""What the paper found is there to be seen with the shipped weights, on the validation split of the textures world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from maskclip import Protocol, Vocabulary, predict_labels
from maskclip.data.dataset import SegmentationDataset
from maskclip.evaluation.scores import Confusion, Scores, scores
from maskclip.programs.config import build
from maskclip.textures.dataset import write_textures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    """The very images that the demo and the model card use."""
    root: Path = tmp_path_factory.mktemp("val")
    write_textures(root, [(0, 0, 0)] * 13, train=0, val=100)
    return SegmentationDataset(root, "JPEGImages/%.jpg", 13, "SegmentationClass/%.png", "ImageSets/Segmentation/val.txt")


@pytest.fixture
def score(data: SegmentationDataset, compose_cfg: Callable[..., DictConfig], texture_classes: Vocabulary) -> Callable[..., Scores]:
    def evaluate(*overrides: str) -> Scores:
        cfg = compose_cfg("eval", "model=maskclip_textures", "data=textures", "model.cache=null", *overrides)
        model, confusion = build(cfg.model, classes=texture_classes), Confusion(13)
        for sample in data:
            confusion.update(predict_labels(model, sample["image"][None], Protocol()), sample["mask"][None])
        return scores(confusion.compute(), texture_classes.unseen_indices)

    return evaluate


def test_maskclip_at_least_doubles_plain_clip(score: Callable[..., Scores]) -> None:
    plain, ours = score("model.strategy=clip"), score()
    assert ours.miou >= 2 * plain.miou
    assert ours.miou >= 0.45
    assert ours.iou.min() >= 0.10


def test_the_refinements_do_not_hurt(score: Callable[..., Scores]) -> None:
    plain = score().miou
    assert score("model.prompt_denoising=0.5").miou >= plain - 0.0005
    assert score("model.key_smoothing=0.8").miou >= plain - 0.0005
