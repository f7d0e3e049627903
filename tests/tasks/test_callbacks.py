"""Callbacks: throughput and memory in the log, sheets of training images, and the progress bar."""

from __future__ import annotations

import resource
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.training import make_data, make_task, make_trainer

from maskclip import MaskCLIP
from maskclip.images.drawing import overlay
from maskclip.programs.fitting import training_cost
from maskclip.tasks.callbacks import CELL, Pace, StepProgressBar, TrainingImages, peak_memory, true_labels


def test_training_images_and_phases_of_a_run(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    """One sheet every two steps, although two batches make a step; the progress bar names the phase."""
    phases: list[str] = []

    class Bar(StepProgressBar):
        def on_train_batch_start(self, *arguments: Any) -> None:
            super().on_train_batch_start(*arguments)
            phases.append(self.train_progress_bar.desc.removesuffix(": "))

    bar, sheets = Bar(), TrainingImages(tmp_path / "crops", every_n_train_steps=2, count=1)
    bar._refresh_rate = 1  # as on a terminal
    trainer = make_trainer(tmp_path, 4, callbacks=[sheets, bar], accumulate_grad_batches=2, progress=True)
    trainer.fit(make_task(tiny, guided=3), make_data(textures_root, tiny.vocabulary))
    files = sorted((tmp_path / "crops").iterdir())
    assert [path.name for path in files] == ["000002.png", "000004.png"]
    with Image.open(files[0]) as page:
        assert page.width > 4 * CELL and page.height > CELL
    assert phases == ["guided"] * 6 + ["self-training"] * 2


def test_true_labels_are_the_mask_and_the_hidden_truth() -> None:
    mask = torch.tensor([[[3, -1], [255, -1]]])
    assert true_labels({"mask": mask, "truth": torch.tensor([[[9, 5], [9, 255]]])}, 255).tolist() == [[[3, 5], [255, 255]]]
    assert true_labels({"mask": mask}, 255).tolist() == [[[3, 255], [255, 255]]]


def test_a_sheet_shows_truth_labels_and_prediction_in_this_order(tiny: MaskCLIP) -> None:
    size, palette = (CELL, CELL), tiny.vocabulary.colours
    truth, labels, predicted = 3, 4, 6
    maps = {"mask": torch.full((1, *size), truth), "labels": torch.full((1, *size), labels)}
    logits = torch.zeros(1, len(palette), *size).index_fill_(1, torch.tensor(predicted), 1)
    module: Any = SimpleNamespace(student=tiny, phase="guided")
    page = np.asarray(TrainingImages("unused").page(module, {"image": torch.zeros(1, 3, *size), "logits": logits, **maps}))
    columns = []
    for label in (truth, labels, predicted):
        colour = overlay(np.zeros((1, 1, 3), np.uint8), np.full((1, 1), label, np.uint8), palette)[0, 0]
        columns.append(np.argwhere((page == colour).all(-1))[:, 1])
    assert all(left.max() < right.min() for left, right in pairwise(columns))


def test_pace_counts_the_images_of_all_processes_and_waits_but_not_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 4.0, 5.0, 100.0, 103.0, 103.0])  # 2 batches take 4 s, a wait 1, a validation 95, 2 batches 3 s
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    logged: list[dict[str, float]] = []
    pace, module = Pace(), SimpleNamespace(log_dict=logged.append, device=torch.device("cpu"))
    for step in (1, 2, 3, 4):
        trainer: Any = SimpleNamespace(world_size=3, global_step=step, log_every_n_steps=2)
        if step == 3:
            pace.on_validation_start()
        pace.on_train_batch_start(trainer, module)  # type: ignore[arg-type]
        pace.on_train_batch_end(trainer, module, None, {"image": torch.zeros(5, 3, 1, 1)})  # type: ignore[arg-type]
    assert [entry["train/images_per_second"] for entry in logged] == [30 / 4, 60 / 8]


@pytest.mark.skipif(sys.platform != "linux", reason="NaN on other systems")
def test_peak_memory_is_that_of_the_process() -> None:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak_memory(torch.device("cpu")) == pytest.approx(kilobytes * 1024 / 1e9, rel=0.05)


def test_peak_memory_is_unknown_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    pace, trainer = Pace(), SimpleNamespace(global_step=1, world_size=1, precision="32-true")
    assert np.isnan(peak_memory(torch.device("cpu")))
    pace.peak = peak_memory(torch.device("cpu"))
    trainer.callbacks = [pace]
    assert training_cost(trainer)["peak_memory_gb"] is None  # type: ignore[arg-type]
