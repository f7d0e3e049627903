"""The fenced blocks of the project's pages, and the command lines in them.

An HTML comment before a block keeps it from being run, and gives the reason:

    <!-- not run: needs two GPUs -->

A block of any language with `title="path"` behind its language, or after a line such as "Save this as `path`:", is a file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from conftest import ROOT

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+) *(?P<language>[\w+-]*)(?P<info>.*)$")
NOT_RUN = re.compile(r"<!--\s*not run:\s*(.+?)\s*-->", re.DOTALL)
SAVED_AS = re.compile(r"\b[Ss]ave [^`\n]*`([^`\n]+)`[^`\n]*:\s*$")
TITLE = re.compile(r"title=\"([^\"]+)\"")
SHELL = ("bash", "shell", "sh", "console")
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:srun |torchrun |python\S* ).*?\b(?:src|scripts)/\w+\.py\b")


class Block(NamedTuple):
    """A fenced block: its language, text and the line of its first line; the file that it shows; why it is not run."""

    page: str
    line: int
    language: str
    text: str
    file: str | None
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    """A call of a program: what stands before it (`srun`, `torchrun --nnodes=2`), its path and its arguments."""

    launcher: list[str]
    program: str
    arguments: list[str]


def pages() -> list[str]:
    """The pages with blocks, relative to the root."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in paths if path.is_file()]


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    number = start = 0
    while number < len(lines):
        if (fence := FENCE.match(lines[number])) is None:
            number += 1
            continue
        first = number + 1
        number = first
        while number < len(lines) and lines[number].strip() != fence["fence"]:
            number += 1
        text = "\n".join(line.removeprefix(fence["indent"]) for line in lines[first:number]) + "\n"
        before = "\n".join(lines[start : first - 1]).rstrip()
        file = TITLE.search(fence["info"]) or SAVED_AS.search(before)
        comments = list(NOT_RUN.finditer(before))
        reason = comments[-1][1] if comments and comments[-1].end() == len(before) else None
        yield Block(page, first + 1, fence["language"], text, file[1] if file else None, reason)
        start = number = number + 1


def shell_lines(block: Block) -> list[str]:
    """The lines of a shell block: continued lines are joined, and the output in a `console` block is left out."""
    lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def parse(line: str) -> Command | None:
    """The call of a program in a line of shell, None for other lines."""
    if not COMMAND.match(line):
        return None
    words = list(takewhile(lambda word: word not in ("|", ">", "&&", ";"), shlex.split(line, comments=True)))
    position = next(i for i, word in enumerate(words) if re.fullmatch(r"(src|scripts)/\w+\.py", word))
    return Command(words[:position], words[position], words[position + 1 :])


def spans(page: str) -> list[str]:
    """Code in the prose and the tables of a page."""
    prose = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def is_simple(line: str) -> bool:
    """Whether a line is one command: no pipe, no redirection."""
    return not set("|><;&") & set(unquoted(line))


def unquoted(line: str) -> str:
    """What a shell expands: the line without quoted words and comments."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", line).partition(" #")[0]
