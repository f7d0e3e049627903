"""Shared fixtures: small CLIPs, the shipped tiny CLIP, a small textures data set, converted releases, composed configs.

Slow objects are built once for the whole run. `tiny`, `compose_cfg` and `prepared` return copies, which a test may change.
`textures_root` and `release_root` return shared folders, which a test must not change.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for the network; `make test-network` sets 0

import open_clip
import pytest
import torch
from omegaconf import DictConfig
from open_clip.model import CLIP
from support.configs import composed
from support.raw_releases import WRITERS, prepare

from maskclip import MaskCLIP, Vocabulary
from maskclip.programs.config import plain
from maskclip.textures.dataset import write_textures

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)  # the models of tests are small; programs that tests start use all cores


def small_clip(tower: str) -> CLIP:
    """A whole CLIP with random weights: a ViT (patch 8, 32 pixels) or a ModifiedResNet (64 pixels)."""
    torch.manual_seed(0)
    vision = {
        "vit": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3},
        "resnet": {"image_size": 64, "width": 8, "layers": [1, 1, 1, 1], "head_width": 64},
    }[tower]
    text = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model = CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text)
    for module in model.modules():  # a new ResNet's last norms are zero, which would hide whole branches
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    model.visual.image_mean, model.visual.image_std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return model.eval()


@pytest.fixture(params=["vit", "resnet"])
def any_clip(request: pytest.FixtureRequest) -> CLIP:
    return small_clip(request.param)


@pytest.fixture
def vit() -> CLIP:
    return small_clip("vit")


@pytest.fixture
def resnet() -> CLIP:
    return small_clip("resnet")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Give every test the same random numbers, whichever tests run before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def compose_cfg() -> Callable[..., DictConfig]:
    """`compose_cfg("eval", "model=maskclip_textures", ...)`: the config of a program."""
    return composed


@pytest.fixture(scope="session")
def texture_classes(compose_cfg: Callable[..., DictConfig]) -> Vocabulary:
    return Vocabulary(**plain(compose_cfg("eval", "data=textures").classes))


@pytest.fixture(scope="session")
def textures_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small textures data set: 12 training and 5 validation images."""
    root = tmp_path_factory.mktemp("textures")
    write_textures(root, [(i, 2 * i, 3 * i) for i in range(13)], train=12, val=5, seed=1)
    return root


@pytest.fixture(scope="session")
def shipped_tiny(texture_classes: Vocabulary) -> MaskCLIP:
    """The model that `tiny` copies, for fixtures of modules. Do not change it."""
    return MaskCLIP.build(texture_classes, "maskclip-tiny", "textures", templates="simple", cache=None)


@pytest.fixture
def tiny(shipped_tiny: MaskCLIP) -> MaskCLIP:
    """MaskCLIP on the CLIP that ships with the project."""
    return copy.deepcopy(shipped_tiny)


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`prepared("voc")`: a new folder of data sets with this release, converted by `scripts/prepare_voc.py`."""
    return lambda name, *arguments: convert(name, tmp_path, monkeypatch, *arguments)


@pytest.fixture(scope="session")
def release_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`release_root("voc")`: as `prepared`, converted once for all tests that only read it."""

    @cache
    def converted(name: str) -> Path:
        with pytest.MonkeyPatch.context() as monkeypatch:
            return convert(name, tmp_path_factory.mktemp(name), monkeypatch)

    return converted


def convert(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Path:
    archives, root = folder / "archives", folder / "data"
    archives.mkdir(exist_ok=True)
    WRITERS[name](archives)
    prepare(monkeypatch, name, root, f"--from={archives}", *arguments)
    return root
