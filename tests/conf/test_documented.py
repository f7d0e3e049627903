"""Every command line in configs, docstrings and messages parses, names keys that exist, and is quoted for bash and zsh."""

from __future__ import annotations

import re
from itertools import chain

import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from support import documented
from support.configs import CONF, composed

CONFIGS = {f"src/{path.stem}.py": path.stem for path in CONF.glob("*.yaml") if path.stem != "inspect"}
CONFIGS["scripts/inspect_data.py"] = "inspect"
EVERYWHERE = documented.command_lines()
COMMANDS = list({shown.text: shown for shown in EVERYWHERE}.values())
SETTINGS = documented.overrides_in_messages()


def program_and_arguments(text: str) -> tuple[str, list[str]]:
    words = documented.split(text)
    (start,) = [i for i, word in enumerate(words) if re.fullmatch(r"(src|scripts)/\w+\.py", word)]
    return words[start], words[start + 1 :]


def overrides_of(arguments: list[str]) -> list[str]:
    """The overrides of a command line, with the first of the values that each sweeps over; without those of Hydra itself."""
    overrides = []
    for word in arguments:
        if word in ("-m", "--multirun", "experiment=...") or word.startswith("hydra"):
            continue
        override = OverridesParser.create().parse_override(word)
        overrides.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}" if override.is_sweep_override() else word)
    return overrides


def check_command(program: str, overrides: list[str]) -> None:
    """The options of groups exist, and the keys exist in the config with those options that decide which keys there are.

    That every option composes is another test.
    """
    keys = []
    for word in overrides:
        group, _, option = word.partition("=")
        folder = CONF / group.partition("@")[0]
        if not folder.is_dir():
            keys.append(word)
        elif option.replace("value", ""):  # not filled in at run time
            assert (folder / f"{option}.yaml").is_file(), f"{group} has no option {option}"
    selected = [word for word in overrides if word.partition("=")[0] in ("model", "student", "logger") and word not in keys]
    cfg = composed(CONFIGS[program], *selected)
    for override in OverridesParser.create().parse_overrides(keys):
        group = OmegaConf.is_dict(OmegaConf.select(cfg, override.key_or_group, throw_on_resolution_failure=False))
        assert not (group and isinstance(override.value(), str)), f"{override.input_line}: {override.key_or_group} is no config group"
        OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=override.is_add() or override.is_force_add())


def test_commands_are_found() -> None:
    programs = {program_and_arguments(shown.text)[0] for shown in COMMANDS}
    assert set(CONFIGS) <= programs and len(COMMANDS) > 40
    places = {shown.where for shown in EVERYWHERE}
    assert {"conf/train.yaml", "src/eval.py", "scripts/demo.py"} <= places
    assert {"src/maskclip/vocabulary.py", "src/maskclip/data/mask_values.py"} <= {shown.where for shown in SETTINGS}


def test_command_lines_run_through_hydras_parser_and_name_keys_of_their_program() -> None:
    for shown in COMMANDS:
        program, arguments = program_and_arguments(shown.text)
        assert (ROOT / program).is_file(), shown
        if program in CONFIGS:
            try:
                check_command(program, overrides_of(arguments))
            except Exception as error:
                raise AssertionError(f"{shown.where}: {shown.text}") from error


def test_settings_run_through_hydras_parser() -> None:
    for shown in SETTINGS:
        OverridesParser.create().parse_overrides([word for word in documented.split(shown.text) if "=" in word])


def test_zsh_finds_no_pattern_to_expand() -> None:
    for shown in chain(COMMANDS, SETTINGS):
        synopsis = re.sub(r" \[[A-Z]\S*\]", "", shown.text)  # of a script: [SECOND.json]
        unquoted = set("[]{}*?!") & set(documented.unquoted(synopsis))
        assert not unquoted, f"{shown}: quote words with brackets, as in 'classes.names=[cat,grass]'"


@pytest.mark.parametrize("pattern", ["*.md", "data/*.md", "docs/**/*.md", "conf/**/*.yaml"])
def test_settings_in_text_and_comments_are_quoted(pattern: str) -> None:
    setting = re.compile(r"(?<![\w.'\"+\[])\+?[a-z_]+(?:\.[a-z_]+)*=[\[{][^`\n]*?[\]}]")
    for path in ROOT.glob(pattern):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            text = "\n".join(line.partition("#")[2] for line in text.splitlines())
        text = re.sub(r"```python.*?```", "", text, flags=re.DOTALL)  # arguments in Python
        assert setting.findall(text) == [], path
