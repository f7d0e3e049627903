"""The table of a multirun: its jobs, their labels and their order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from maskclip.programs.sweeps import SweepTable, corruption_cells, sweep_cells


def write_job(folder: Path, number: int, overrides: list[str], miou: float | None) -> None:
    job = folder / str(number)
    (job / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(overrides), job / ".hydra" / "overrides.yaml")
    if miou is not None:
        (job / "results.json").write_text(json.dumps({"method": "maskclip", "miou": miou, "pixel_accuracy": 2 * miou}))


def test_rows_are_labelled_with_the_values_that_differ(tmp_path: Path) -> None:
    for number in range(11):
        write_job(tmp_path, number, ["data=textures", f"model.strategy=s{number}"], float(number))
    assert [row[0] for row in sweep_cells(tmp_path)[1:]] == [f"s{number}" for number in range(11)]  # 10 comes after 9


def test_several_keys_and_switches(tmp_path: Path) -> None:
    write_job(tmp_path, 0, ["a=1", "model.released={}"], 1.0)
    write_job(tmp_path, 1, ["a=1", "model.released={softmax:True}"], 2.0)
    write_job(tmp_path, 2, ["a=2", "model.released={p:True,q:True,r:True,s:True}"], 3.0)
    write_job(tmp_path, 3, ["a=2", "b=3"], None)  # a job that failed has no card
    expected = ["a=1 model.released=none", "a=1 model.released=softmax", "a=2 model.released=all 4"]
    assert [row[0] for row in sweep_cells(tmp_path)[1:]] == expected


def test_prefixes_of_hydra_are_not_part_of_a_key(tmp_path: Path) -> None:
    """`~key` has no value, and `+x` and `++x` set the same key as `x`."""
    for number, override in enumerate(["x=1", "+x=2", "++x=3", "~x", "~x=1", "x='a=b, c'"]):
        write_job(tmp_path, number, ["a=1", override, "~b"], float(number))
    assert [row[0] for row in sweep_cells(tmp_path)[1:]] == ["1", "2", "3", "removed", "removed", "'a=b, c'"]


def test_the_table_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(tmp_path, 0, ["model=clip"], 20.46)
    write_job(tmp_path, 1, ["model=maskclip"], 65.0)
    callback = SweepTable()
    assert isinstance(callback, Callback)
    config = OmegaConf.create({"hydra": {"mode": "MULTIRUN", "sweep": {"dir": str(tmp_path)}}})
    callback.on_job_end(config, JobReturn())
    assert (tmp_path / "table.md").exists() and capsys.readouterr().out == ""
    callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines() if line.startswith(("clip", "maskclip"))] == [
        ["clip", "20.46", "40.92"],
        ["maskclip", "65.00", "130.00"],
    ]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines == ["| run | mIoU | pixel acc |", "| --- | --: | --: |", "| clip | 20.46 | 40.92 |", "| maskclip | 65.00 | 130.00 |"]


def test_a_multirun_of_something_else_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(tmp_path, 0, ["x=1"], None)
    SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert capsys.readouterr().out == "" and not (tmp_path / "table.md").exists()


def test_corruptions_become_kind_by_severity(tmp_path: Path) -> None:
    jobs = [("null", 1, 60.0), ("null", 2, 60.0), ("spatter", 1, 50.0), ("spatter", 2, 30.0), ("shot_noise", 1, 20.0)]
    for number, (kind, severity, miou) in enumerate(jobs):
        write_job(tmp_path, number, [f"data.corruption={kind}", f"data.severity={severity}", "model=x"], miou)
    assert sweep_cells(tmp_path) == [
        ["corruption", "1", "2", "mean", "drop"],
        ["clean", "", "", "60.00", ""],
        ["spatter", "50.00", "30.00", "40.00", "20.00"],
        ["shot_noise", "20.00", "-", "20.00", "40.00"],
        ["mean", "35.00", "30.00", "33.33", "26.67"],
    ]


def test_without_clean_images_there_is_no_drop() -> None:
    assert corruption_cells([("spatter", "3", 12.34)])[1] == ["spatter", "12.34", "12.34", "-"]
