"""Training on a GPU: the losses of the CPU, mixed precision, compilation."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from support.devices import SLOW_ON_CPU, cuda
from support.programs import SMALL_STUDENT

from maskclip import load_student
from maskclip.evaluation.cards import device_name
from maskclip.programs.training import train_student

Train = Callable[..., list[float]]


@pytest.fixture(scope="module")
def losses(compose_cfg: Callable[..., DictConfig], textures_root: Path) -> Train:
    """`losses(folder, device, *overrides)`: the losses of a training run of three steps, the last one self-training."""

    def train(folder: Path, device: str, *overrides: str) -> list[float]:
        steps = ("trainer.max_steps=3", "trainer.val_check_interval=3", "trainer.log_every_n_steps=1", "task.guided=2")
        trainer = {"cpu": "cpu", "cuda": "gpu"}[device]
        places = (f"data.root={textures_root}", f"paths.output={folder}", f"trainer={trainer}", "trainer.enable_progress_bar=false")
        cfg = compose_cfg("train", *SMALL_STUDENT, *places, *steps, *overrides)
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        card, _ = train_student(cfg, folder)
        assert card is not None and card["training"]["steps"] == 3
        assert card["device"] == device_name(torch.device(device))
        with (folder / "metrics.csv").open() as rows:
            return [float(row["train/loss"]) for row in csv.DictReader(rows) if row["train/loss"]]

    return train


@pytest.fixture(scope="module")
def cpu_losses(losses: Train, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(tmp_path_factory.mktemp("cpu"), "cpu")


@pytest.mark.parametrize("device", SLOW_ON_CPU)
def test_losses_are_those_of_the_cpu(losses: Train, cpu_losses: list[float], device: str, tmp_path: Path) -> None:
    assert losses(tmp_path, device) == pytest.approx(cpu_losses, rel=0.02)
    assert load_student(tmp_path / "checkpoints" / "last.ckpt").weights_sha256


@pytest.mark.parametrize("device", SLOW_ON_CPU)
def test_mixed_precision(losses: Train, cpu_losses: list[float], device: str, tmp_path: Path) -> None:
    assert losses(tmp_path, device, "trainer.precision=bf16-mixed") == pytest.approx(cpu_losses, rel=0.1)


@pytest.mark.parametrize("device", [cuda()])
def test_half_precision_with_scaled_losses(losses: Train, device: str, tmp_path: Path) -> None:
    assert all(map(math.isfinite, losses(tmp_path, device, "trainer.precision=16-mixed", "trainer.gradient_clip_val=1.0")))


@pytest.mark.parametrize("device", SLOW_ON_CPU)
def test_a_compiled_student(losses: Train, cpu_losses: list[float], device: str, tmp_path: Path) -> None:
    assert losses(tmp_path, device, "compile=true") == pytest.approx(cpu_losses, rel=0.02)
