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
    """A multirun of evaluations: their results in one table, printed in the end.

    The sweep's folder has it as table.md after every job, so that a job that fails costs its own row only.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if str(config.hydra.mode).endswith(RunMode.MULTIRUN.name):
            self.write(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if cells := self.write(folder):
            print(f"\n{aligned(cells)}\n\nthis table: {folder / 'table.md'}")

    def write(self, folder: Path) -> Cells:
        """Write the table of the jobs that are done; returns its cells, the head first."""
        cells = sweep_cells(folder)
        if cells:
            write_text(folder / "table.md", markdown(cells) + "\n")
        return cells


def sweep_cells(folder: Path) -> Cells:
    """The table of the result cards below a sweep's folder: kind by severity for corruptions, else one row for each job."""
    cards = sorted(folder.glob("*/results.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    if not cards:
        return []
    given = [overrides_of([str(o) for o in OmegaConf.load(p.parent / ".hydra" / "overrides.yaml")]) for p in cards]
    keys = [key for key in dict.fromkeys(key for one in given for key in one) if len({one.get(key) for one in given}) > 1]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in cards]
    if set(keys) == {"data.corruption", "data.severity"}:
        return corruption_cells(
            [(one["data.corruption"], one["data.severity"], card["miou"]) for one, card in zip(given, results, strict=True)]
        )
    return score_cells([{**card, "run": _label(one, keys) or card["method"]} for one, card in zip(given, results, strict=True)], "run")


def overrides_of(lines: Sequence[str]) -> dict[str, str]:
    """The value of each overridden key as text; `x=1`, `+x=1` and `++x=1` are the same key, and `~x` has the value "removed"."""
    parsed = OverridesParser.create().parse_overrides(list(lines))
    return {o.get_key_element().lstrip("+~"): "removed" if o.is_delete() else o.get_value_element_as_str() for o in parsed}


def corruption_cells(scores: Sequence[tuple[str, str, float]]) -> Cells:
    """mIoU of kinds (rows) by severity (columns), the mean of each kind, and how far that is below the clean images."""
    by_kind: dict[str, dict[str, float]] = defaultdict(dict)
    for kind, severity, miou in scores:
        by_kind[kind][severity] = miou
    severities = sorted({severity for _, severity, _ in scores})
    clean = _mean(by_kind.pop("null", {}))
    rows = [["clean", *("" for _ in severities), _number(clean), ""]] if clean is not None else []
    for kind, found in by_kind.items():
        rows.append([kind, *(_number(found.get(severity)) for severity in severities), *_mean_and_drop(found, clean)])
    every = {f"{kind} {severity}": miou for kind, found in by_kind.items() for severity, miou in found.items()}
    means = [_number(_mean({kind: found[s] for kind, found in by_kind.items() if s in found})) for s in severities]
    rows.append(["mean", *means, *_mean_and_drop(every, clean)])
    return [["corruption", *severities, "mean", "drop"], *rows]


def _mean_and_drop(found: Mapping[str, float], clean: float | None) -> tuple[str, str]:
    mean = _mean(found)
    return _number(mean), _number(None if clean is None or mean is None else clean - mean)


def _mean(found: Mapping[str, float]) -> float | None:
    return sum(found.values()) / len(found) if found else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _label(given: Mapping[str, str], keys: Sequence[str]) -> str:
    """What sets a job apart: the values of `keys`, named where there are several."""
    values = [(key, _switches(given[key])) for key in keys if key in given]
    return " ".join(value if len(keys) == 1 else f"{key}={value}" for key, value in values)


def _switches(value: str) -> str:
    """What is on in an override such as {a:True,b:True}; other values as they are."""
    if not value.startswith("{"):
        return value
    names = re.findall(r"(\w+): ?[Tt]rue", value)
    return "none" if not names else f"all {len(names)}" if len(names) > 3 else ", ".join(names)
