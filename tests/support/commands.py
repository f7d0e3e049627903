"""The configs of command lines: composed, and bound to the signatures of what they build."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from support.pages import Command

CONFIGS = {f"src/{path.stem}.py": path.stem for path in (ROOT / "conf").glob("*.yaml") if (ROOT / "src" / f"{path.stem}.py").is_file()}
CONFIGS["scripts/inspect_data.py"] = "inspect"


def overrides(command: Command) -> list[str]:
    """The overrides of a command, without options and settings of Hydra."""
    words = iter(command.arguments)
    kept = []
    for word in words:
        if word == "--config-dir":
            next(words)
        elif not word.startswith(("-", "hydra")) and word not in ("...", "experiment=..."):
            kept.append(word)
    return kept


def config_dir(command: Command) -> str | None:
    """The folder behind `--config-dir`."""
    words = command.arguments
    return words[words.index("--config-dir") + 1] if "--config-dir" in words else None


def first_choice(override: str) -> str:
    """An override with the first of the values that it sweeps over."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return override
    return f"{parsed.get_key_element()}={next(parsed.sweep_string_iterator())}"


def compose_command(command: Command, root: Path = ROOT, folder: Path = ROOT) -> DictConfig:
    """The config of the command's first job, from `root`/conf. Folders of configs of its own lie below `folder`.

    Commands that choose the same groups share one composition.
    """
    own = config_dir(command)
    settings = list(map(first_choice, overrides(command)))
    parsed = OverridesParser.create().parse_overrides(settings)
    values = [o for o in parsed if o.is_force_add() or not (o.is_add() or o.is_delete() or (root / "conf" / o.key_or_group).is_dir())]
    groups = tuple(word for word, override in zip(settings, parsed, strict=True) if override not in values)
    cfg = composed(CONFIGS[command.program], groups, root, None if own is None else folder / own).copy()
    for override in values:
        OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=override.is_force_add())
    return cfg


@cache
def composed(config: str, groups: tuple[str, ...], root: Path, own: Path | None) -> DictConfig:
    """A config with these choices of groups. `own` is a further folder of configs."""
    extra = [] if own is None else [f"hydra.searchpath=[file://{own}]"]
    extra += ["local=null"] if (root / "conf" / "local").is_dir() else []  # settings of this machine
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        return compose(config, overrides=[*extra, *groups])


def unknown_parameters(cfg: DictConfig) -> list[str]:
    """Keys of the config that the signature of their `_target_` does not have."""
    unknown = []
    for path, node in targets(OmegaConf.to_container(cfg)):
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            unknown += [f"{path}.{key}" for key in node if not key.startswith("_") and key not in parameters]
    return unknown


def targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a `_target_`, and where it is."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}" if path else str(key))
