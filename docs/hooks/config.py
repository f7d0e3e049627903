"""Put tables of every config key into the page reference/config.

A line `<!-- keys: conf/model -->` in a page is replaced by the options and keys of that config group, and
`<!-- keys: conf/eval.yaml -->` by the keys of one file. `<!-- options: conf/experiment -->` gives the options alone.
The texts come from the YAML files:

- an option is described by the comment at the top of its file, or else by the values that it sets;
- a key is described by the comment behind it on its line, or else by the comment directly above it (with both, the one above is
  a heading), in any file of `conf/` that sets it; keys of a program (`conf/eval.yaml`) by a comment in this file, since programs
  use the same names for different things;
- a key without a comment below a `_target_` is described by the `Args:` section of that class or function;
- a mapping is expanded into its keys if one of them has a description or it has a `_target_`; otherwise it is one value.
"""

from __future__ import annotations

import html
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
sys.path.insert(0, str(CONF.parent / "src"))  # this checkout's docstrings, wherever maskclip is installed
MARKER = re.compile(r"^<!-- (keys|options): conf/(\S+) -->$", re.MULTILINE)
UNDOCUMENTED = ("hydra",)
"""Top-level keys of Hydra itself, which its own documentation describes."""
GLOBAL = ("experiment",)
"""Groups whose files set keys of other groups, those without `# @package _global_` included."""
TYPE = r"(?: \(.*?\))?"
"""The type behind the name of an argument in a docstring."""
FIRST = {"classes": "custom", "words": "own"}
"""The file of a group that gives its defaults; in other groups default.yaml, then shared files (`_name.yaml`)."""
LONG = 60
"""Characters of a default; longer ones are cut."""


@dataclass(frozen=True)
class Key:
    """A key of a config file: its full name, such as model.strategy, its value as YAML text, and its comments."""

    name: str
    value: str
    meaning: str
    target: str = ""
    is_value: bool = True
    """Whether the key holds a value, not a mapping whose keys are described one by one."""
    program: str = ""
    """The program whose file sets it, such as eval; "" for files of groups."""


def files_of(place: str) -> list[Path]:
    """The YAML files of a config group, in the order in which they give defaults, or the one file of this name."""
    path = CONF / place
    if path.is_file():
        return [path]
    first = FIRST.get(place, "default")
    return sorted(path.glob("*.yaml"), key=lambda file: (file.stem != first, not file.stem.startswith("_"), file.stem))


@cache
def header(file: Path) -> str:
    """The comment at the top of a file, as one paragraph; the line `# @package` is left out."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(re.sub(r"^(python .*?)(?=: |$)", r"`\1`", line.lstrip("# ").rstrip()))
    return " ".join(lines)


@cache
def keys_of(file: Path) -> tuple[Key, ...]:
    """All keys of a file with their full names, in the order of the file."""
    text = file.read_text(encoding="utf-8")
    node = yaml.compose(text)
    everywhere = file.parent == CONF or file.parent.name in GLOBAL or "# @package _global_" in text
    group = "" if everywhere else file.parent.relative_to(CONF).as_posix().replace("/", ".")
    if not isinstance(node, yaml.MappingNode):
        return ()
    return tuple(replace(key, program=file.stem if file.parent == CONF else "") for key in _walk(node, group, text.splitlines()))


def _walk(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[Key]:
    target = _target(node)
    for key, value in node.value:
        name = f"{prefix}.{key.value}" if prefix else str(key.value)
        if key.value in ("defaults", "_target_") or name.split(".")[0] in UNDOCUMENTED:
            continue
        meaning = _comment(lines, key.start_mark.line, key.start_mark.column, value)
        below = list(_walk(value, name, lines)) if isinstance(value, yaml.MappingNode) and not value.flow_style else []
        if inner := _target(value):
            yield Key(name, inner.rsplit(".", 1)[-1], meaning or first_line(inner), is_value=False)
            yield from below
        elif below and (not meaning or any(child.meaning for child in below)):
            if meaning:
                yield Key(name, "", meaning, is_value=False)
            yield from below
        else:
            yield Key(name, _text(value), meaning, target)


def _target(node: yaml.Node) -> str:
    """The `_target_` of a mapping; "" if it has none."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((str(value.value) for key, value in pairs if key.value == "_target_"), "")


def _comment(lines: list[str], number: int, column: int, value: yaml.Node) -> str:
    """The comment behind a value, or else the comment block directly above its key, at the same indentation."""
    above = []
    for line in reversed(lines[:number]):
        if not line[column:].startswith("#") or line[:column].strip():
            break
        above.insert(0, line.strip().lstrip("# "))
    if len(above) == number:  # the header of the file, not a comment on its first key
        above = []
    end = value.end_mark if isinstance(value, yaml.ScalarNode) or value.flow_style else value.start_mark
    last = lines[min(end.line, len(lines) - 1)] if isinstance(value, yaml.ScalarNode) or value.flow_style else lines[number]
    behind = re.search(r"\s#\s*(.*)$", last[end.column if last is not lines[number] or end.line == number else 0 :])
    return behind[1].strip() if behind else " ".join(above).strip()


def _text(node: yaml.Node) -> str:
    """A value as one line of YAML."""
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(map(_text, node.value))}]"
    if isinstance(node, yaml.MappingNode):
        return "{" + ", ".join(f"{key.value}: {_text(value)}" for key, value in node.value) + "}"
    return f'"{node.value}"' if node.value == "" and node.style else node.value


@cache
def meanings() -> dict[str, str]:
    """The comments in all files of `conf/` on each full name; those in shared files come first."""
    texts: dict[str, str] = {}
    for place in [*sorted(path.name for path in CONF.iterdir() if path.is_dir()), *sorted(path.name for path in CONF.glob("*.yaml"))]:
        for key in (key for file in files_of(place) for key in keys_of(file) if key.meaning):
            texts.setdefault(key.name, key.meaning)
    return texts


@cache
def targets() -> dict[str, str]:
    """The `_target_` of each group or mapping that has one, by its full name."""
    by_name: dict[str, str] = {}
    for file in sorted(CONF.rglob("*.yaml")):
        node = yaml.compose(file.read_text(encoding="utf-8"))
        group = file.parent.relative_to(CONF).as_posix()
        for name, inner in [(group, node), *((key.value, value) for key, value in (node.value if _is_mapping(node) else []))]:
            if target := _target(inner):
                by_name.setdefault(name, target)
    return by_name


def _is_mapping(node: yaml.Node | None) -> bool:
    return isinstance(node, yaml.MappingNode)


def meaning_of(key: Key) -> str:
    """The description of a key: a comment on it in any file, or the docstring of its `_target_`; "" if there is none."""
    name = key.name.replace("teacher.", "model.", 1) if key.name.startswith("teacher.") else key.name
    if text := key.meaning or ("" if key.program else meanings().get(name, "")):
        return text
    parent, _, last = name.rpartition(".")
    if text := argument(key.target or targets().get(parent, ""), last):
        return text
    return ""


@cache
def values() -> frozenset[str]:
    """The full names that some comment describes as one value, such as a table of words."""
    keys = (key for file in sorted(CONF.rglob("*.yaml")) for key in keys_of(file))
    return frozenset(key.name for key in keys if key.is_value and key.meaning)


def _is_part_of_a_value(key: Key) -> bool:
    parents = (key.name.rsplit(".", count)[0] for count in range(1, key.name.count(".") + 1))
    return any(parent in values() for parent in parents)


@cache
def argument(target: str, name: str) -> str:
    """The first sentence on an argument in the `Args:` section of a class or function; "" if it has none."""
    if not target:
        return ""
    thing = load(target)
    for documented in (thing, getattr(thing, "__init__", None)):
        text = inspect.getdoc(documented) or ""
        pattern = rf"^\s+{re.escape(name)}{TYPE}:\s*(.+?)(?=\n\s*\n|\n\s+\w+{TYPE}:\s|\Z)"
        if match := re.search(pattern, text, re.MULTILINE | re.DOTALL):
            sentence = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", re.sub(r"\s+", " ", match[1]))
            return re.split(r"(?<=[.])\s", sentence)[0]
    return ""


def load(target: str) -> Any:
    """The class, function or method of this dotted name."""
    module, _, attribute = target.rpartition(".")
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError:  # a class method, such as MaskCLIP.build
        module, _, parent = module.rpartition(".")
        owner = getattr(importlib.import_module(module), parent)
    return getattr(owner, attribute)


def first_line(target: str) -> str:
    """The first sentence of a docstring."""
    return re.split(r"(?<=[.])\s", re.sub(r"\s+", " ", inspect.getdoc(load(target)) or ""))[0]


def undocumented() -> list[str]:
    """`file: key` for every key of `conf/` that nothing describes."""
    files = sorted(CONF.rglob("*.yaml"))
    keys = [(file, key) for file in files for key in keys_of(file) if not _is_part_of_a_value(key)]
    return [f"{file.relative_to(CONF)}: {key.name}" for file, key in keys if not meaning_of(key)]


def tables(place: str) -> str:
    """The options of a group and all of its keys as Markdown; only keys for a single file."""
    files = files_of(place)
    keys: dict[str, Key] = {}
    for key in (key for file in files for key in keys_of(file) if not _is_part_of_a_value(key)):
        keys.setdefault(key.name, key)
    blocks = [options(place)] if (CONF / place).is_dir() else []
    rows = [f"| `{key.name}` | {_code(key.value)} | {_cell(meaning_of(key))} |" for key in keys.values()]
    if rows:
        blocks.append("\n".join(["| key | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(blocks)


def options(place: str) -> str:
    """The options of a group that can be selected, as Markdown."""
    files = [file for file in files_of(place) if not file.stem.startswith("_")]
    rows = [f"| `{place}={file.stem}` | {_cell(header(file)) or _settings(file)} |" for file in files]
    return "\n".join(["| option | what it is |", "|---|---|", *rows])


def _settings(file: Path) -> str:
    settings = [f"`{key.name.partition('.')[2] or key.name}: {key.value}`" for key in keys_of(file) if key.value and len(key.value) < LONG]
    return _cell(", ".join(settings[:4]))


def _code(value: str) -> str:
    short = value if len(value) <= LONG else f"{value[: LONG - 2]} …"
    return f"<code>{html.escape(short).replace('|', '&#124;').replace('*', '&#42;')}</code>" if short else ""


def _cell(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "&#124;").replace("*", "&#42;")


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page with every marker replaced by its tables."""
    return MARKER.sub(lambda match: tables(match[2]) if match[1] == "keys" else options(match[2]), markdown)
