"""The worked example of docs/datasets.md on a small data set in CamVid's layout, run as written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from PIL import Image

PAGE = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
COUNTS = {"train": 3, "val": 2, "test": 4}
SMALL = {  # stands for the models of the page, which need a download
    "model=maskclip_vit16": ["model=maskclip_textures"],
    "model@teacher=maskclip_vit16": [
        "model@teacher=maskclip_textures",
        *("student.encoder=resnet18", "student.weights=null", "+student.encoder_depth=4", "student.decoder_channels=16"),
        *("student.decoder_atrous_rates=[2,4,6]", "task.guided=0.5", "trainer.max_steps=2", "trainer.val_check_interval=2"),
        *("data.batch_size=2", "data.augmentation.crop=64", "data.augmentation.short=64", "logger=none"),
    ],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines()]


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CamVid's folders and lists with small images; value 11 is void."""
    folder = tmp_path_factory.mktemp("work")
    root, rng = folder / "data" / "camvid", np.random.default_rng(0)
    for split, count in COUNTS.items():
        names = [f"0001TP_{i:06d}.png" for i in range(count)]
        for place, shape in ((split, (48, 64, 3)), (f"{split}annot", (48, 64))):
            (root / place).mkdir(parents=True)
            for name in names:
                Image.fromarray(rng.integers(0, 12, shape, dtype=np.uint8)).save(root / place / name)
        lines = [f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}\n" for name in names]
        (root / f"{split}.txt").write_text("".join(lines))
    (folder / "configs" / "data").mkdir(parents=True)
    (folder / "configs" / "data" / "camvid.yaml").write_text(blocks("yaml")[0])
    return folder


def run(folder: Path, command: str, output: Path) -> None:
    program, *arguments = shlex.split(command)
    assert program == "python"
    arguments = [small for argument in arguments for small in SMALL.get(argument, [argument])]
    more = [f"paths.data={folder / 'data'}", f"paths.output={output}", f"hydra.run.dir={output}"]
    more += [] if "inspect" in command else ["trainer=cpu", "images_to_save=0", "data.num_workers=0", "trainer.enable_progress_bar=false"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, str(ROOT / arguments[0]), *arguments[1:], *more], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_yaml_has_every_key_that_says_what_a_data_set_is() -> None:
    page, base = OmegaConf.create(blocks("yaml")[0]), OmegaConf.load(ROOT / "conf" / "data" / "_base.yaml")
    settings = {"_target_", "truth", "corruption", "severity", "skip_broken", "batch_size", "eval_batch_size", "num_workers", "seed"}
    assert set(base) - settings - set(page.data) <= {"exif"} and set(page.data) <= set(base)
    assert set(page.classes) == set(OmegaConf.load(ROOT / "conf" / "classes" / "custom.yaml"))


SLOW = [pytest.param(split, number, marks=pytest.mark.slow) for split, number in (("val", 1), ("test", 2), ("val", 5))]


@pytest.mark.parametrize(("split", "number"), [("train", 0), *SLOW])
def test_inspection_and_evaluation(camvid: Path, split: str, number: int, tmp_path: Path) -> None:
    run(camvid, commands()[number], tmp_path)
    if number == 0:
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["images"] == COUNTS[split] and report["problems"] == []
        assert [v["class"] for v in report["values"]][::11] == ["sky", "ignored"]
    else:
        card = json.loads((tmp_path / "results.json").read_text())
        assert (card["split"], card["images"], len(card["classes"])) == (split, COUNTS[split], 11)


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 4])
def test_training(camvid: Path, number: int, tmp_path: Path) -> None:
    run(camvid, commands()[number], tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["images"] == COUNTS["val"]
