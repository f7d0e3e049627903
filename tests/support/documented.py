"""Command lines and overrides in configs, docstrings and messages. `pages.py` has those of the pages."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from conftest import ROOT

COMMAND = re.compile(r"(?:^|[\s`(])((?:srun |torchrun )?(?:python\S* |torchrun (?=.*src/))(?:[^`]*? )?(?:src|scripts)/\w+\.py\b[^`]*)")
MESSAGE_OVERRIDE = re.compile(r"'[a-z_]+\.[a-z_]+=[^']*'|\b[a-z_]+(?:\.[a-z_]+)+=(?:\[[^\]]*\]|\{[^}]*\}|[^\s,;:)'\"]+)")
HOLE = "\ufffc"  # placeholder for a value in an f-string


class Shown(NamedTuple):
    """A command line, or overrides alone, and the file that contains it."""

    where: str
    text: str


def sources() -> list[Path]:
    return [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "scripts").rglob("*.py"))]


def command_lines() -> list[Shown]:
    """Every line with python src/... or scripts/..., without the comments and prose after it."""
    shown = []
    for path in [*sorted((ROOT / "conf").rglob("*.yaml")), *sources()]:
        text = path.read_text(encoding="utf-8") if path.suffix != ".py" else "\n".join(strings(path))
        for line in re.sub(r"\\\n\s*", "", text).splitlines():
            for match in COMMAND.finditer(line.removeprefix("#").strip(' "')):
                shown.append(Shown(str(path.relative_to(ROOT)), without_prose(match[1])))
    return shown


def without_prose(command: str) -> str:
    """A command line without the comment or explanation after it, which begins with a wide gap, a bracket or a verb."""
    ends = (r" +\(", r"\s+#", r"   +", r"[;,:](?= |$)", r" \.\.\.(?= |:|$)", r" (?=writes |and )")
    command = re.split("|".join(ends), command.strip())[0]
    return re.sub(r"(?<!\.)\.$", "", " ".join(command.split())).removesuffix('"').replace(HOLE, "value")


def overrides_in_messages() -> list[Shown]:
    """Overrides with a fixed value in the strings of the package, as in "use 'data.ignore=[11]'"."""
    shown = []
    for path in sorted((ROOT / "src" / "maskclip").rglob("*.py")):
        for text in strings(path):
            settings = (match[0].rstrip(".") for match in MESSAGE_OVERRIDE.finditer(text))
            shown += [Shown(str(path.relative_to(ROOT)), setting) for setting in settings if HOLE not in setting]
    return shown


def strings(path: Path) -> Iterator[str]:
    """The strings of a Python file, with `HOLE` for the values in f-strings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def unquoted(command: str) -> str:
    """The parts of a command line outside quotes."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", command)


def split(command: str) -> list[str]:
    """The words of a command line, as a POSIX shell splits it."""
    return shlex.split(command)
