"""One table for a Hydra multirun."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from maskclip.evaluation.tables import aligned, markdown, score_cells
from maskclip.files import write_text

Cells = list[list[str]]


class SweepTable(Callback):
    """Prints the results of a multirun of evaluations as one table at the end.

    The table is written to table.md in the sweep's folder after every job, so that a failed job costs its own row only.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if str(config.hydra.mode).endswith(RunMode.MULTIRUN.name):
            self.write(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if cells := self.write(folder):
            print(f"\n{aligned(cells)}\n\nthis table: {folder / 'table.md'}")

    def write(self, folder: Path) -> Cells:
        """Write the table of the finished jobs to `folder`/table.md; returns its cells, the header first."""
        cells = sweep_cells(folder)
        if cells:
            write_text(folder / "table.md", markdown(cells) + "\n")
        return cells


def sweep_cells(folder: Path) -> Cells:
    """The table of the result cards in the folder of a sweep.

    A sweep over corruptions and severities has a row for each corruption and a column for each severity; other sweeps have
    a row for each job, labelled with the values that differ between jobs. Empty without result cards.
    """
    paths = sorted(folder.glob("*/results.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    if not paths:
        return []
    jobs = [overrides_of([str(o) for o in OmegaConf.load(path.parent / ".hydra" / "overrides.yaml")]) for path in paths]
    keys = [key for key in dict.fromkeys(key for job in jobs for key in job) if len({job.get(key) for job in jobs}) > 1]
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    if set(keys) == {"data.corruption", "data.severity"}:
        return corruption_cells(
            [(job["data.corruption"], job["data.severity"], card["miou"]) for job, card in zip(jobs, cards, strict=True)]
        )
    return score_cells([{**card, "run": _label(job, keys) or card["method"]} for job, card in zip(jobs, cards, strict=True)], "run")


def overrides_of(lines: Sequence[str]) -> dict[str, str]:
    """The value of each overridden key as text. `x=1`, `+x=1` and `++x=1` have the same key; `~x` has the value "removed"."""
    parsed = OverridesParser.create().parse_overrides(list(lines))
    return {o.get_key_element().lstrip("+~"): "removed" if o.is_delete() else o.get_value_element_as_str() for o in parsed}


def corruption_cells(scores: Sequence[tuple[str, str, float]]) -> Cells:
    """A table of mIoU by corruption (rows) and severity (columns), with the mean of each row and its drop from the clean images."""
    by_kind: dict[str, dict[str, float]] = defaultdict(dict)
    for kind, severity, miou in scores:
        by_kind[kind][severity] = miou
    severities = sorted({severity for _, severity, _ in scores})
    clean = _mean(by_kind.pop("null", {}))
    rows = [["clean", *("" for _ in severities), _number(clean), ""]] if clean is not None else []
    for kind, mious in by_kind.items():
        rows.append([kind, *(_number(mious.get(severity)) for severity in severities), *_mean_and_drop(mious, clean)])
    all_mious = {f"{kind} {severity}": miou for kind, mious in by_kind.items() for severity, miou in mious.items()}
    means = [_number(_mean({kind: mious[s] for kind, mious in by_kind.items() if s in mious})) for s in severities]
    rows.append(["mean", *means, *_mean_and_drop(all_mious, clean)])
    return [["corruption", *severities, "mean", "drop"], *rows]


def _mean_and_drop(mious: Mapping[str, float], clean: float | None) -> tuple[str, str]:
    mean = _mean(mious)
    return _number(mean), _number(None if clean is None or mean is None else clean - mean)


def _mean(mious: Mapping[str, float]) -> float | None:
    return sum(mious.values()) / len(mious) if mious else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _label(overrides: Mapping[str, str], keys: Sequence[str]) -> str:
    """The values of `keys` in the overrides of a job; with several keys, as KEY=VALUE."""
    values = [(key, _switches(overrides[key])) for key in keys if key in overrides]
    return " ".join(value if len(keys) == 1 else f"{key}={value}" for key, value in values)


def _switches(value: str) -> str:
    """The names that are true in an override such as {a:True,b:True}; other values unchanged."""
    if not value.startswith("{"):
        return value
    names = re.findall(r"(\w+): ?[Tt]rue", value)
    return "none" if not names else f"all {len(names)}" if len(names) > 3 else ", ".join(names)
