"""Resuming a training run: the same weights and schedule, and the settings that must not change."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support.training import PhaseRecorder, make_data, make_task, make_trainer

from maskclip import InputError, MaskCLIP
from maskclip.programs.resuming import check_resumable, image_list, write_image_list
from maskclip.tasks.maskclip_plus import MaskCLIPPlus


class StopAt(pl.Callback):
    """Stops a run after so many steps, with the schedule of the whole run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step:
            trainer.should_stop = True


class RateRecorder(pl.Callback):
    """Records the learning rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_a_resumed_run_has_the_weights_and_phases_of_an_uninterrupted_one(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    def run(steps: int, resume: Path | None = None) -> tuple[pl.Trainer, MaskCLIPPlus, list[tuple[int, bool]]]:
        recorder, task = PhaseRecorder(), make_task(tiny, guided=3)
        trainer = make_trainer(tmp_path, 4, callbacks=[recorder, StopAt(steps)])
        torch.manual_seed(99)
        trainer.fit(task, make_data(textures_root, tiny.vocabulary), ckpt_path=resume)
        return trainer, task, recorder.phases

    _, whole, phases = run(4)
    trainer, _, first_phases = run(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    trainer, resumed, last_phases = run(4, tmp_path / "half.ckpt")
    assert trainer.global_step == 4
    assert first_phases + last_phases == phases == [(0, True), (1, True), (2, True), (3, False)]
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, resumed.student.state_dict()[name]), name


def test_an_extended_run_follows_the_longer_schedule(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    """A finished run of 2 steps is extended to 5: from its third step on it has the learning rates of a run of 5 steps."""
    recorder, data = RateRecorder(), make_data(textures_root, tiny.vocabulary)
    first = make_trainer(tmp_path, 2)
    first.fit(make_task(tiny), data)
    first.save_checkpoint(tmp_path / "done.ckpt")
    longer = make_trainer(tmp_path, 5, callbacks=[recorder])
    longer.fit(make_task(tiny), make_data(textures_root, tiny.vocabulary), ckpt_path=tmp_path / "done.ckpt")
    assert longer.global_step == 5
    assert recorder.rates == [pytest.approx((0.01 - 1e-4) * (1 - step / 5) ** 0.9 + 1e-4) for step in (2, 3, 4)]


@pytest.fixture
def task(tiny: MaskCLIP) -> MaskCLIPPlus:
    return make_task(tiny)


def configure(task: MaskCLIPPlus, **settings: Any) -> MaskCLIPPlus:
    """Change hyper-parameters of a task; building another one is slower."""
    task.hparams.update(settings)
    return task


def write_checkpoint(path: Path, task: MaskCLIPPlus, step: int = 0, **settings: Any) -> str:
    """Write a checkpoint without weights."""
    path.parent.mkdir(exist_ok=True)
    torch.save({"hyper_parameters": {**task.hparams, **settings}, "global_step": step}, path)
    return str(path)


def test_older_checkpoints_have_the_defaults_of_newer_settings(task: MaskCLIPPlus, tmp_path: Path) -> None:
    stored = {key: value for key, value in task.hparams.items() if key != "flip"}
    torch.save({"hyper_parameters": stored}, tmp_path / "old.ckpt")
    check_resumable(task, str(tmp_path / "old.ckpt"))
    with pytest.raises(InputError, match=r"other settings \(task.flip was false, is true\)"):
        check_resumable(configure(task, flip=True), str(tmp_path / "old.ckpt"))


def test_the_protocol_must_not_change_except_for_its_speed(task: MaskCLIPPlus, tmp_path: Path) -> None:
    check_resumable(task, write_checkpoint(tmp_path / "batch.ckpt", task, protocol={"batch_size": 2}))
    checkpoint = write_checkpoint(tmp_path / "windows.ckpt", task, protocol={"window": 64, "stride": 32})
    with pytest.raises(InputError, match=r"\(protocol.window was 64, is null; protocol.stride was 32, is null\)"):
        check_resumable(task, checkpoint)


def test_all_settings_that_differ_are_listed_with_both_values(task: MaskCLIPPlus, tmp_path: Path) -> None:
    def run(seed: int, share: float, strategy: str) -> dict[str, Any]:
        teacher = {"strategy": strategy, "key_smoothing": None}
        return {"data": "a", "seed": seed, "max_steps": 8, "augmentation": {"most": share}, "teacher": teacher}

    checkpoint = write_checkpoint(tmp_path / "a.ckpt", task, run=run(0, 0.75, "maskclip"), lr=0.02)
    check_resumable(configure(task, run=run(0, 0.75, "maskclip"), lr=0.02), checkpoint)
    with pytest.raises(InputError) as error:
        check_resumable(configure(task, run=run(1, 0.5, "naclip"), lr=0.01), checkpoint)
    listed = [
        "task.lr was 0.02, is 0.01",
        "data.seed was 0, is 1",
        "data.augmentation.most was 0.75, is 0.5",
        "teacher.strategy was maskclip, is naclip",
    ]
    assert f"({'; '.join(listed)})" in str(error.value)


def test_the_tensors_of_a_checkpoint_are_not_read(task: MaskCLIPPlus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: (mapped.append(options["mmap"]), load(*arguments, **options))[1])
    check_resumable(task, write_checkpoint(tmp_path / "a.ckpt", task))
    assert mapped == [True]


def test_a_checkpoint_that_may_not_be_read(task: MaskCLIPPlus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", task)

    def refuse(*_: Any, **__: Any) -> None:  # root may read all files
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), checkpoint)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(InputError, match=rf"cannot read {checkpoint} \(resume\): Permission denied"):
        check_resumable(task, checkpoint)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (list("bcdefghijk"), "10 images, but the data set has 10 .missing: a; new: k.*restore the training images"),
        (list("ab"), "10 images, but the data set has 2 .missing: c, d, e, f, g and 3 more."),
        (list("jihgfedcba"), "the same names in another order"),
    ],
)
def test_the_training_images_must_not_change(task: MaskCLIPPlus, tmp_path: Path, names: list[str], message: str) -> None:
    before = list("abcdefghij")
    checkpoint = write_checkpoint(tmp_path / "checkpoints" / "a.ckpt", task, run={"images": image_list(before)})
    write_image_list(tmp_path, before)
    check_resumable(configure(task, run={"images": image_list(before)}), checkpoint, before)
    configure(task, run={"images": image_list(names)})
    with pytest.raises(InputError, match=message):
        check_resumable(task, checkpoint, names)
    write_image_list(tmp_path, ["x"])  # of another run
    with pytest.raises(InputError, match=rf"10 images, but the data set has {len(names)} .with other names"):
        check_resumable(task, checkpoint, names)


@pytest.mark.parametrize(
    ("before", "now", "step", "message"),
    [
        ((4, 1.0), (8, 1.0), 4, None),
        ((10, 0.4), (20, 0.4), 3, None),
        ((10, 4), (20, 4), 9, None),
        ((10, 0.4), (20, 4), 9, None),
        ((10, 0.4), (20, 0.4), 9, "the teacher would label 8 steps instead of 4.*use task.guided=4"),
        ((10, 4), (20, 6), 2, "use task.guided=4"),
        ((10, 4), (10, 6), 2, "task.guided was 4, is 6"),
        ((10, 1.0), (8, 1.0), 2, "trainer.max_steps was 10, is 8: a resumed run can be extended but not shortened"),
    ],
)
def test_max_steps_and_guided_of_an_extended_run(
    task: MaskCLIPPlus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: tuple[int, float],
    now: tuple[int, float],
    step: int,
    message: str | None,
) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", task, step, guided=before[1], run={"max_steps": before[0]})
    configure(task, guided=now[1], run={"max_steps": now[0]})
    if message is None:
        check_resumable(task, checkpoint)
        assert f"Resuming at step {step} with trainer.max_steps={now[0]} (was {before[0]})" in capsys.readouterr().out
    else:
        with pytest.raises(InputError, match=message):
            check_resumable(task, checkpoint)
