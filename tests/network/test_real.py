"""Real weights, a real photograph and a row of the paper: `make test-network`.

Set MASKCLIP_TEST_PHOTO to a copy of the photograph where its server cannot be reached. The row of the paper needs Pascal Context
(see data/README.md) and takes minutes on a GPU, hours on a CPU. These tests have not been run yet: they were written without a network.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import huggingface_hub
import open_clip
import pytest
import torch
from omegaconf import DictConfig
from open_clip.pretrained import download_pretrained_from_url
from PIL import Image
from support.programs import command

from maskclip import MaskCLIP
from maskclip.clip.loading import load_clip

pytestmark = pytest.mark.network

PHOTO = "http://images.cocodataset.org/val2017/000000039769.jpg"
CATS = ((13, 52, 314, 471), (345, 24, 640, 369))
"""Boxes (left, top, right, bottom) of the two cats in PHOTO, which lie on a sofa."""


@pytest.fixture(autouse=True)
def online() -> Iterator[None]:
    """No request waits for longer than 30 s."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        pytest.fail("HF_HUB_OFFLINE=1 forbids downloads: run make test-network, or HF_HUB_OFFLINE=0 pytest -m network", pytrace=False)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    yield
    socket.setdefaulttimeout(before)


def require_access(url: str) -> None:
    problem = None
    try:
        urlopen(Request(url, method="HEAD"), timeout=30).close()
    except OSError as cause:
        problem = cause
    if problem is not None:
        pytest.fail(f"cannot reach {url} ({problem}): this test needs the network", pytrace=False)


@pytest.fixture
def photo(tmp_path: Path) -> Image.Image:
    if path := os.environ.get("MASKCLIP_TEST_PHOTO"):
        return Image.open(path)
    require_access(PHOTO)
    with urlopen(PHOTO, timeout=30) as response:
        (tmp_path / "photo.jpg").write_bytes(response.read())
    return Image.open(tmp_path / "photo.jpg")


@pytest.mark.parametrize("architecture", ["ViT-B-16-quickgelu", "RN50-quickgelu"])
def test_weights_of_openai(architecture: str) -> None:
    """OpenAI's archive, whose URL contains its SHA-256, holds the weights that open_clip downloads for the tag."""
    source = open_clip.get_pretrained_cfg(architecture, "openai")
    require_access(source["url"])
    archive = download_pretrained_from_url(source["url"])  # raises RuntimeError if the checksum differs
    require_access(f"https://huggingface.co/{source['hf_hub'].rstrip('/')}/resolve/main/open_clip_config.json")
    ours, expected = load_clip(architecture, archive), load_clip(architecture, "openai")
    assert ours.visual.image_mean == expected.visual.image_mean
    weights = expected.state_dict()
    assert ours.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name].float()) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("architecture", ["ViT-B-16-quickgelu", "RN50-quickgelu"])
def test_two_cats_on_a_sofa(architecture: str, photo: Image.Image) -> None:
    require_access("https://huggingface.co")
    labels = torch.from_numpy(MaskCLIP.build(["cat", "sofa", "car", "airplane", "grass"], architecture, cache=None).segment(photo, 512))
    assert labels.shape == (480, 640)
    inside = torch.zeros(labels.shape, dtype=torch.bool)
    for left, top, right, bottom in CATS:
        inside[top:bottom, left:right] = True
    assert (labels <= 1).float().mean() > 0.7
    assert (labels[inside] == 0).float().mean() > (labels[~inside] == 0).float().mean() + 0.2


def test_pascal_context(compose_cfg: Callable[..., DictConfig], tmp_path: Path) -> None:
    """The paper: 21.7 % mIoU on the 59 classes, MaskCLIP with ViT-B/16 as the released code computes it."""
    settings = ("model=maskclip_vit16_official", "data=context59")
    root = Path(compose_cfg("eval", *settings).data.root)
    if not (root / "SegmentationClassContext").is_dir():
        pytest.skip(f"no data in {root}: python scripts/prepare_context.py")
    require_access("https://huggingface.co")
    subprocess.run(command("eval", *settings, f"paths.output={tmp_path}", f"hydra.run.dir={tmp_path}"), check=True)
    card = json.loads((tmp_path / "results.json").read_text())
    assert card["images"] == 5104
    assert card["miou"] == pytest.approx(21.7, abs=0.3)
