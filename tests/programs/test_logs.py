"""Loggers after a run: a separate run for each job, with the config, the final scores and whether it failed."""

from __future__ import annotations

import csv
import json
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from omegaconf import DictConfig, OmegaConf
from support.programs import SMALL_STUDENT, command, environment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from maskclip.programs.logs import log_scores, run_logger

CARD = {"miou": 40.5, "pixel_accuracy": 60.0, "seen": 50.0, "unseen": 30.0, "harmonic": None}
SCORES = {"test/miou": 40.5, "test/pixel_accuracy": 60.0, "test/seen": 50.0, "test/unseen": 30.0}


@pytest.fixture
def cfg_of(compose_cfg: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., DictConfig]:
    return lambda program, name, *more: compose_cfg(program, "data=textures", f"paths.output={tmp_path}/{name}", *more)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    if wandb.run is not None:
        wandb.finish()


def wandb_runs(folder: Path) -> list[dict[str, Any]]:
    """The offline wandb runs below a folder: `summary`, `config` and `exit_code` of each."""
    paths, end = sorted(folder.glob("wandb/offline-run-*/*.wandb")), time.monotonic() + 30
    while any(read_wandb(path.read_bytes())["exit_code"] is None for path in paths) and time.monotonic() < end:
        time.sleep(0.1)  # wandb's own process writes the last records
    return [read_wandb(path.read_bytes()) for path in paths]


def read_wandb(content: bytes) -> dict[str, Any]:
    """The content of a .wandb file: 7 bytes, then LevelDB's log format in blocks of 32 KiB with protobuf records."""
    run: dict[str, Any] = {"summary": {}, "config": {}, "exit_code": None}
    position, data = 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", content[position : position + 7])
        data += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(data)
            data = b""
            run["summary"] |= {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.summary.update}
            run["config"] |= {item.key: json.loads(item.value_json) for item in record.config.update}
            run["exit_code"] = record.exit.exit_code if record.HasField("exit") else run["exit_code"]
    return run


def test_two_jobs_of_one_process_are_two_wandb_runs(offline: None, cfg_of: Callable[..., DictConfig], tmp_path: Path) -> None:
    for seed, program in enumerate(("train", "eval")):
        with run_logger(cfg_of(program, f"job{seed}", "logger=wandb", f"seed={seed}")) as logger:
            log_scores(logger, CARD | {"miou": 10.0 + seed}, step=3)
        assert wandb.run is None
    for seed in (0, 1):
        (run,) = wandb_runs(tmp_path / f"job{seed}")
        assert {name: run["summary"][name] for name in SCORES} == SCORES | {"test/miou": 10.0 + seed}
        assert run["summary"]["trainer/global_step"] == 3 and run["exit_code"] == 0
        assert run["config"]["seed"] == seed and run["config"]["data"]["name"] == "textures"


def test_a_job_that_fails_is_a_failed_run(offline: None, cfg_of: Callable[..., DictConfig], tmp_path: Path) -> None:
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), run_logger(cfg_of("eval", error.__name__, "logger=wandb")):
            raise error
        assert wandb.run is None
        (run,) = wandb_runs(tmp_path / error.__name__)
        assert run["exit_code"] == 1


def test_tensorboard_and_csv_write_to_the_run_folder(cfg_of: Callable[..., DictConfig], tmp_path: Path) -> None:
    for name in ("tensorboard", "csv"):
        with run_logger(cfg_of("eval", name, f"logger={name}")) as logger:
            assert logger is not None
            logger.finalize("success")  # as Lightning does after training
            log_scores(logger, CARD, step=7)
    assert yaml.safe_load((tmp_path / "csv" / "hparams.yaml").read_text())["data"]["name"] == "textures"
    (row,) = csv.DictReader((tmp_path / "csv" / "metrics.csv").read_text().splitlines())
    assert {key: float(value) for key, value in row.items()} == SCORES | {"step": 7.0}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name, value in SCORES.items():
        (event,) = events.Scalars(name)
        assert (event.step, event.value) == (7, pytest.approx(value))
    assert (tmp_path / "tensorboard" / "hparams.yaml").is_file()


def test_without_a_logger(cfg_of: Callable[..., DictConfig]) -> None:
    with run_logger(cfg_of("train", "none", "logger=none")) as logger:
        assert logger is None
        log_scores(logger, CARD)
    with run_logger(OmegaConf.create({})) as logger:
        assert logger is None


@pytest.mark.slow
def test_a_sweep_of_trainings_is_a_wandb_run_for_each(tmp_path: Path, textures_root: Path) -> None:
    """The second job of the sweep fails at its first step; its run has no scores."""
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=2", "trainer.val_check_interval=1")
    line = command("train", "-m", *settings, "logger=wandb", "task.lr=0.002,1e30", f"hydra.sweep.dir={tmp_path}/sweep")
    quiet = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    result = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path) | quiet, timeout=600)
    assert result.returncode == 1 and "error: " in result.stderr, result.stderr
    (first,), (second,) = (wandb_runs(tmp_path / "sweep" / str(job)) for job in (0, 1))
    card = json.loads((tmp_path / "sweep" / "0" / "results.json").read_text())
    assert first["summary"]["test/miou"] == card["miou"] and first["exit_code"] == 0
    assert "train/loss" in first["summary"] or "val/miou" in first["summary"]
    assert "test/miou" not in second["summary"] and second["exit_code"] == 1
