"""Documented command lines work in zsh as in bash: zsh refuses brackets, braces, * and ? that are not quoted."""

from __future__ import annotations

import re
import shlex

import pytest
from documented import ROOT, documented

SETTING = re.compile(r"(?<![\w.'\"+\[])\+?[a-z_]+(?:\.[a-z_]+)*=[\[{][^`\n]*?[\]}]")
"""A setting with a list or a mapping that is not in quotes, anywhere in a text for people."""


def test_there_are_commands() -> None:
    sources = {source.partition(":")[0] for source, _ in documented()}
    assert {"README.md", "conf/segment.yaml", "src/segment.py", "docs/training.md", "scripts/inspect_data.py"} <= sources


@pytest.mark.parametrize(("source", "line"), documented())
def test_commands_are_quoted(source: str, line: str) -> None:
    bare = re.sub(r"'[^']*'|\"[^\"]*\"|[{]\w+[}](?= |$)", "", line)  # {checkpoint} stands for a value in a message
    assert not set("[]{}*?") & set(bare), f"{source}: quote the settings with brackets in: {line}"
    assert shlex.split(line)


@pytest.mark.parametrize("pattern", ["*.md", "data/*.md", "docs/*.md", "conf/**/*.yaml"])
def test_settings_are_quoted(pattern: str) -> None:
    for path in ROOT.glob(pattern):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            text = "\n".join(line.partition("#")[2] for line in text.splitlines())
        text = re.sub(r"```python.*?```|`scales=", "", text, flags=re.DOTALL)  # arguments in Python
        assert [match[0] for match in SETTING.finditer(text)] == [], path
