"""Mistakes on the command line of a program, as sentences: unknown keys and options, and values that Hydra cannot read."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from shlex import quote as _quote
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from maskclip.errors import alternatives
from maskclip.files import CHECKOUT

BRACKETS = {"[": "]", "{": "}"}


def describe(error: HydraException, program: str, words: Sequence[str]) -> str:
    """Describe an error that Hydra raised for the `words` of a command line, with the remedy.

    `program` is the name of the config in conf/.
    """
    text = str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, text, words)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = [name for name in error.options if not name.startswith("_")]
        return f"no option {option} of {group}: {question(similar(option, options)) or 'choose ' + alternatives(options)}"
    if match := re.match(r"Ambiguous value for argument '(.*)'", text):
        return _several(match[1])
    if match := re.match(r"Sweep parameters '(.*)' requires --multirun", text):
        return f"{match[1]} needs --multirun"
    if match := re.search(r"Could not delete (?:from config\. )?'(.*?)'(?: does not exist|\. No match)", text):
        return _unknown(match[1].partition("=")[0], text, program, words)
    if match := re.search(r"Could not override '(.*?)'", text):
        return _unknown(match[1], text, program, words)
    if (match := re.match(r"(?:Error merging override |Could not append to config\..*: ')(\+.*?)(?:'|$)", text, re.S)) or (
        match := re.search(r"Either remove \+ prefix: '(.*)'", text)
    ):
        line = match[1].lstrip("+")
        return f"{line.partition('=')[0]} is a key already: give {quote(line)} without +"
    lines = [line.strip() for line in f"{text}\n{error.__cause__ or ''}".partition("\nConfig search path")[0].splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith(("full_key", "object_type", "reference_type", "See http")))


def unknown_additions(config: DictConfig) -> str | None:
    """Describe a key that only a `+` on the command line added at the top level. None if there is no such key.

    Keys below existing nodes are allowed: they are parameters of an object, which checks them.
    """
    overrides = [*config.hydra.overrides.hydra, *config.hydra.overrides.task]
    own = [override for override in overrides if not override.startswith("+")]
    if len(own) == len(overrides):
        return None
    loader = GlobalHydra.instance().config_loader()
    known = loader.load_configuration(config.hydra.job.config_name, own, RunMode.MULTIRUN, validate_sweep_overrides=False)
    added = [override.lstrip("+").partition("=")[0] for override in overrides if override.startswith("+")]
    swept = [key.partition(".")[0] for key in added if not _is_group(key)]  # not in the config of a multirun
    unknown = next((key for key in [*map(str, config), *swept] if key not in known), None)
    return None if unknown is None else _no_key(unknown, _keys(known))


def similar(word: str, words: Iterable[str]) -> list[str]:
    """The most similar of `words`, at most three, best first. Empty if none is similar."""
    ratios = {other: SequenceMatcher(None, word, other).ratio() for other in words}
    best = max(ratios.values(), default=0.0)
    names = [other for other in ratios if ratios[other] >= max(0.7, best - 0.1)]
    return sorted(names, key=lambda other: -ratios[other])[:3]


def question(names: Sequence[str]) -> str:
    """Ask whether one of the names was meant; empty without names."""
    return f"did you mean {alternatives(names)}?" if names else ""


def quote(text: str) -> str:
    """Quote a word for bash and zsh, in double quotes if it has single quotes."""
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else _quote(text)


def _several(override: str) -> str:
    """Describe a value with commas that Hydra takes for a sweep."""
    key, _, value = override.partition("=")
    if _is_group(key):
        return f"{override} has several options: give one, or --multirun for a run with each"
    as_list, as_text = quote(f"{key}=[{value}]"), quote(f"{key}='{value}'")
    return f"{override} has several values: give {as_list} for a list, {as_text} for a text, or --multirun for a run with each"


def _is_group(key: str) -> bool:
    return (CHECKOUT / "conf" / key.partition("@")[0]).is_dir()


def _unreadable(override: str, text: str, words: Sequence[str]) -> str:
    """Describe a word that Hydra cannot parse."""
    key, _, value = override.partition("=")
    index = words.index(override) if override in words else len(words)
    if not value and "=" not in override:
        before = words[index - 1] if 0 < index < len(words) and "=" in words[index - 1] else "KEY=some"
        return f"{override} is not a setting: give KEY=VALUE, and quote values with spaces, such as {quote(f'{before} {override}')}"
    closing = BRACKETS.get(value[:1])
    if closing and value.count(value[0]) > value.count(closing):
        whole = override
        for word in words[index + 1 :]:
            if whole.endswith(closing) or re.match(r"[+~]*[\w.@/]+=", word):
                break
            whole += f" {word}"
        whole = re.sub(r"\s*,\s*", ",", whole if whole.endswith(closing) else whole.rstrip(", ") + closing)
        return f"{override} has no closing {closing}: quote values with spaces, such as {quote(whole)}"
    reason = next((line for line in text.splitlines() if not line.startswith("Error parsing")), "")
    example = quote(f"{key}=['a=b',c]" if closing else f"{key}='{value}'")
    return f"cannot parse {override} ({reason}): quote text with special characters twice, such as {example}"


def _unknown(key: str, text: str, program: str, words: Sequence[str]) -> str:
    """Describe a key or a group that the program does not have."""
    option = next((word.partition("=")[2] for word in words if word.partition("=")[0] == key), "...")
    if match := re.search(r"Did you mean to override (?:one of )?(.*)\?", text):
        groups = [f"{group}={option}" for group in match[1].split(", ")]
        return f"no group {key} in this program: {question(groups)}"
    return _no_key(key, _known_keys(program, [word for word in words if word.lstrip("+~").partition("=")[0] != key]))


def _no_key(key: str, keys: Sequence[str]) -> str:
    last = key.rpartition(".")[2]
    names = similar(key, keys) or [other for other in keys if last in (other.rpartition(".")[2], other.partition("@")[0])][:3]
    hint = f": {question(names)}" if names else ""
    return f"no key {key}{hint} (python {sys.argv[0]} --help lists all keys)"


def _known_keys(program: str, words: Sequence[str]) -> list[str]:
    """The keys and groups of the program, with the options of the command line if they are valid."""
    overrides = [word for word in words if not word.startswith("-")]
    for attempt in (overrides, []):
        try:
            with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
                return _keys(compose(program, overrides=attempt, return_hydra_config=True))
        except Exception:
            continue
    return []


def _keys(config: DictConfig) -> list[str]:
    groups = [str(group) for group in config.hydra.runtime.choices if not str(group).startswith("hydra")]
    values = {key: node for key, node in _container(config).items() if key not in ("hydra", "protocol_words")}
    return list(dict.fromkeys([*_paths(values), *groups]))


def _container(config: DictConfig) -> dict[str, Any]:
    return {str(key): OmegaConf.to_container(node) if OmegaConf.is_config(node) else node for key, node in config.items_ex(resolve=False)}


def _paths(values: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    """All keys, with dots. Keys of `_target_` and the like are left out."""
    for key, value in values.items():
        if not str(key).startswith("_"):
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from _paths(value, f"{prefix}{key}.")
