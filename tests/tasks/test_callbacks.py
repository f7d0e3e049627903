"""What training says of itself: pace, memory, pictures of labels, and who writes them."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tasks.test_maskclip_plus import make_data, make_task, make_trainer

from maskclip import MaskCLIP
from maskclip.programs.training import training_cost
from maskclip.tasks.callbacks import CELL, Pace, StepProgressBar, TrainingImages, peak_memory


def test_label_pictures_come_once_every_so_many_steps(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    pictures = TrainingImages(tmp_path / "crops", every_n_train_steps=2, count=1)
    trainer = make_trainer(tmp_path, 4, callbacks=[pictures], accumulate_grad_batches=2)
    trainer.fit(make_task(tiny, guided=3), make_data(textures_root, tiny.vocabulary, "seen"))
    found = sorted((tmp_path / "crops").iterdir())
    assert [path.name for path in found] == ["000002.png", "000004.png"]
    with Image.open(found[0]) as page:
        assert page.width > 4 * CELL and page.height > CELL


def test_the_truth_of_a_picture_is_what_is_given_and_what_was_hidden(tiny: MaskCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[np.ndarray] = []
    monkeypatch.setattr("maskclip.tasks.callbacks.overlay", lambda pixels, labels, _: shown.append(labels) or pixels)
    size = (CELL, CELL)
    mask, truth, labels = torch.full(size, 3), torch.full(size, 255), torch.full(size, 4)
    mask[0], truth[0] = -1, 5
    module: Any = SimpleNamespace(student=tiny, phase="guided")
    logits = torch.zeros(1, len(tiny.vocabulary), *size).index_fill_(1, torch.tensor(6), 1)
    batch = {"image": torch.zeros(1, 3, *size, dtype=torch.uint8), "mask": mask[None], "truth": truth[None]}
    TrainingImages("unused").page(module, batch, {"labels": labels[None], "logits": logits})
    assert (shown[0][0] == 5).all() and (shown[0][1:] == 3).all()
    assert (shown[1] == 4).all() and (shown[2] == 6).all()


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


def test_peak_memory_is_that_of_the_process() -> None:
    before = peak_memory(torch.device("cpu"))
    more = np.ones(int(before * 1e9) // 8)  # as much again
    assert before > 0.05 and peak_memory(torch.device("cpu")) > 1.5 * before and more[0]


def test_peak_memory_is_unknown_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    pace, trainer = Pace(), SimpleNamespace(global_step=1, world_size=1, precision="32-true")
    assert np.isnan(peak_memory(torch.device("cpu")))
    pace.peak = peak_memory(torch.device("cpu"))
    trainer.callbacks = [pace]
    assert training_cost(trainer)["peak_memory_gb"] is None  # type: ignore[arg-type]


def test_the_progress_bar_names_the_phase(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Bar(StepProgressBar):
        def on_train_batch_start(self, *arguments: Any) -> None:
            super().on_train_batch_start(*arguments)
            said.append(self.train_progress_bar.desc.removesuffix(": "))

    bar = Bar()
    bar._refresh_rate = 1  # as on a terminal
    trainer = make_trainer(tmp_path, 2, callbacks=[bar], progress=True)
    trainer.fit(make_task(tiny, guided=0.5), make_data(textures_root, tiny.vocabulary, "seen"))
    assert said == ["guided", "self-training"]
