"""One table for a Hydra multirun."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from maskclip.results import markdown, table


class SweepTable(Callback):
    """After a multirun of evaluations: their results in one table, printed and written to the sweep's folder as table.md."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        rows = sweep_rows(folder)
        if not rows:
            return
        (folder / "table.md").write_text(markdown(rows, "run") + "\n", encoding="utf-8")
        print(f"\n{table(rows, 'run')}\n\nthis table: {folder / 'table.md'}")


def sweep_rows(folder: Path) -> list[dict[str, Any]]:
    """The result cards below a sweep's folder in the order of its jobs, `run` saying what sets each apart from the others."""
    cards = sorted(folder.glob("*/results.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    given = [dict(str(o).split("=", 1) for o in OmegaConf.load(p.parent / ".hydra" / "overrides.yaml")) for p in cards]
    keys = [key for key in dict.fromkeys(key for one in given for key in one) if len({one.get(key) for one in given}) > 1]
    rows = []
    for path, one in zip(cards, given, strict=True):
        values = [(key, _switches(one[key])) for key in keys if key in one]
        label = " ".join(value if len(keys) == 1 else f"{key}={value}" for key, value in values)
        card = json.loads(path.read_text(encoding="utf-8"))
        rows.append({**card, "run": label or card["method"]})
    return rows


def _switches(value: str) -> str:
    """What is on in an override such as {a:True,b:True}; other values as they are."""
    if not value.startswith("{"):
        return value
    names = re.findall(r"(\w+): ?[Tt]rue", value)
    return "none" if not names else f"all {len(names)}" if len(names) > 3 else ", ".join(names)
