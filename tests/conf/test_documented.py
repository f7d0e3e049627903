"""Every command line that is shown to people parses, names settings that exist, and needs no further quotes in bash or zsh."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from support import documented
from support.documented import Shown

CONFIGS = {f"src/{path.stem}.py": path.stem for path in (ROOT / "conf").glob("*.yaml") if path.stem != "inspect"}
CONFIGS["scripts/inspect_data.py"] = "inspect"
EVERYWHERE = documented.command_lines()
COMMANDS = list({shown.text: shown for shown in EVERYWHERE}.values())
SETTINGS = [*documented.overrides_in_pages(), *documented.overrides_in_messages()]


def name(shown: Shown) -> str:
    return f"{shown.where}: {shown.text}"


def program_and_arguments(text: str) -> tuple[str, list[str]]:
    words = documented.split(text)
    (start,) = [i for i, word in enumerate(words) if re.fullmatch(r"(src|scripts)/\w+\.py", word)]
    return words[start], words[start + 1 :]


def first_choice(argument: str) -> str:
    """An override with the first of the values that it sweeps over."""
    override = OverridesParser.create().parse_override(argument)
    if not override.is_sweep_override():
        return argument
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def test_commands_are_found() -> None:
    programs = {program_and_arguments(shown.text)[0] for shown in COMMANDS}
    assert set(CONFIGS) <= programs and len(COMMANDS) > 60
    places = {shown.where for shown in EVERYWHERE}
    assert {"README.md", "data/README.md", "docs/how-to/own-data-set.md", "conf/train.yaml", "src/eval.py", "scripts/demo.py"} <= places
    assert any("data.images=holiday/%.jpg" in shown.text for shown in SETTINGS)
    assert {"src/maskclip/vocabulary.py", "src/maskclip/data/mask_values.py"} <= {shown.where for shown in SETTINGS}


@pytest.mark.parametrize("shown", COMMANDS, ids=name)
def test_a_command_line_runs_through_hydras_parser_and_its_program_has_the_settings(shown: Shown, tmp_path: Path) -> None:
    program, arguments = program_and_arguments(shown.text)
    assert (ROOT / program).is_file()
    if program not in CONFIGS:
        return
    folder = []
    if "--config-dir" in arguments:
        at = arguments.index("--config-dir")
        del arguments[at : at + 2]
        (tmp_path / "data").mkdir()
        page = (ROOT / "docs" / "how-to" / "own-data-set.md").read_text(encoding="utf-8")
        (tmp_path / "data" / "camvid.yaml").write_text(re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)[0])
        folder = [f"hydra.searchpath=[file://{tmp_path}]"]
    overrides = [first_choice(word) for word in arguments if word not in ("-m", "--multirun", "experiment=...")]
    overrides = [word for word in overrides if not word.startswith(("hydra/launcher", "hydra.launcher"))]  # a plugin
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose(CONFIGS[program], overrides=[*folder, *overrides])


@pytest.mark.parametrize("shown", SETTINGS, ids=name)
def test_settings_run_through_hydras_parser(shown: Shown) -> None:
    words = [word for word in documented.split(shown.text) if "=" in word]
    OverridesParser.create().parse_overrides(words)


@pytest.mark.parametrize("shown", list(chain(COMMANDS, SETTINGS)), ids=name)
def test_zsh_finds_no_pattern_to_expand(shown: Shown) -> None:
    synopsis = re.sub(r" \[[A-Z]\S*\]", "", shown.text)  # of a script: [SECOND.json]
    assert not set("[]{}*?") & set(documented.unquoted(synopsis)), "quote words with brackets, as in 'classes.names=[cat,grass]'"


@pytest.mark.parametrize("pattern", ["*.md", "data/*.md", "docs/*.md", "conf/**/*.yaml"])
def test_settings_in_prose_and_comments_are_quoted(pattern: str) -> None:
    setting = re.compile(r"(?<![\w.'\"+\[])\+?[a-z_]+(?:\.[a-z_]+)*=[\[{][^`\n]*?[\]}]")
    for path in ROOT.glob(pattern):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            text = "\n".join(line.partition("#")[2] for line in text.splitlines())
        text = re.sub(r"```python.*?```", "", text, flags=re.DOTALL)  # arguments in Python
        assert setting.findall(text) == [], path
