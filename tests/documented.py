"""The command lines that the project documents: in README, docs, --help, comments of configs, docstrings and messages."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("README.md", "data/README.md", "docs/*.md", "conf/**/*.yaml", "src/**/*.py", "scripts/**/*.py")
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:srun )?python (?:src|scripts)/\w+\.py[^\n`]*")


def documented() -> list[tuple[str, str]]:
    """Pairs of a source, such as "README.md:37", and a command line as one would paste it into a shell, without its comment."""
    found = []
    for pattern in PLACES:
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            for match in COMMAND.finditer(_joined(text)):
                line = _without_comment(match[0])
                number = text.count("\n", 0, max(text.find(line), text.find(line[:30]))) + 1
                found.append((f"{path.relative_to(ROOT).as_posix()}:{number}", line))
    return found


def _joined(text: str) -> str:
    """The text with lines joined that end in a backslash."""
    return re.sub(r" *\\\n\s*", " ", text)


def _without_comment(line: str) -> str:
    """The command of a line: what follows three blanks, a # or a semicolon explains it."""
    return re.split(r" {3,}| +#|[;:] | \(|[\"]{3}|\\n|\"(?:\)|$| )", line)[0].rstrip(' .,:"')
