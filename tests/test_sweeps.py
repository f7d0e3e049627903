"""One table for a multirun: which jobs, what sets them apart, in which order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from maskclip.sweeps import SweepTable, sweep_rows


def write_job(folder: Path, number: int, overrides: list[str], miou: float | None) -> None:
    job = folder / str(number)
    (job / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(overrides), job / ".hydra" / "overrides.yaml")
    if miou is not None:
        (job / "results.json").write_text(json.dumps({"method": "maskclip", "miou": miou, "pixel_accuracy": 2 * miou}))


def test_rows_say_what_sets_the_jobs_apart(tmp_path: Path) -> None:
    for number in range(11):
        write_job(tmp_path, number, ["data=textures", f"model.strategy=s{number}"], float(number))
    assert [row["run"] for row in sweep_rows(tmp_path)] == [f"s{number}" for number in range(11)]  # 10 comes after 9


def test_several_keys_and_switches(tmp_path: Path) -> None:
    write_job(tmp_path, 0, ["a=1", "model.released={}"], 1.0)
    write_job(tmp_path, 1, ["a=1", "model.released={softmax:True}"], 2.0)
    write_job(tmp_path, 2, ["a=2", "model.released={p:True,q:True,r:True,s:True}"], 3.0)
    write_job(tmp_path, 3, ["a=2", "b=3"], None)  # a job that failed has no card
    expected = ["a=1 model.released=none", "a=1 model.released=softmax", "a=2 model.released=all 4"]
    assert [row["run"] for row in sweep_rows(tmp_path)] == expected


def test_the_table_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(tmp_path, 0, ["model=clip"], 20.46)
    write_job(tmp_path, 1, ["model=maskclip"], 65.0)
    callback = SweepTable()
    assert isinstance(callback, Callback)
    callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines() if line.startswith(("clip", "maskclip"))] == [
        ["clip", "20.5", "40.9"],
        ["maskclip", "65.0", "130.0"],
    ]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines == ["| run | mIoU | pixel acc |", "| --- | --: | --: |", "| clip | 20.5 | 40.9 |", "| maskclip | 65.0 | 130.0 |"]


def test_a_multirun_of_something_else_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(tmp_path, 0, ["x=1"], None)
    SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert capsys.readouterr().out == "" and not (tmp_path / "table.md").exists()
