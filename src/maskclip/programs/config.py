"""Configs: the resolvers of the YAML files, the page of --help, and how config nodes become objects."""

from __future__ import annotations

import inspect
import textwrap
import warnings
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from maskclip.errors import InputError
from maskclip.files import CHECKOUT
from maskclip.programs.mistakes import question, similar
from maskclip.vocabulary import Vocabulary, read_class_file, read_words

Card = dict[str, Any]


def run_folder(default: str, *, _root_: DictConfig) -> str:
    """Hydra's folder of a run: `default`, or the working directory if `output=...` names the only place that is written to."""
    return "." if "output" in _root_ and not OmegaConf.is_interpolation(_root_, "output") else default


def options(*, _root_: DictConfig) -> str:
    """For --help: the config groups of the program with their options, the selected ones in brackets."""
    lines = []
    for group, selected in sorted(OmegaConf.select(_root_, "hydra.runtime.choices").items()):
        names = sorted(path.stem for path in (CHECKOUT / "conf" / group.partition("@")[0]).glob("[!_]*.yaml"))
        if group.startswith("hydra") or group in HIDDEN or not names or names == [selected]:
            continue
        words = " ".join(f"[{name}]" if name == selected else name for name in names)
        lines += textwrap.wrap(f"  {group:<14}{words}", 120, subsequent_indent=" " * 16, break_on_hyphens=False)
    title = "Config groups: select an option with GROUP=OPTION. The selected options are in brackets; the files are in conf/GROUP/."
    return "\n".join([title, "", *lines, ""]) if lines else ""


HIDDEN = ("local", "paths", "words@protocol_words", "protocol/preprocessing@preprocessing")
"""Groups that follow other groups or the machine: nobody selects them."""


class _Dumper(yaml.SafeDumper):
    """YAML with mappings in blocks and lists of words or numbers in lines."""


_Dumper.add_representer(
    list,
    lambda dumper, values: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", values, flow_style=not any(isinstance(value, (list, dict)) for value in values)
    ),
)


def settings(*, _root_: DictConfig) -> str:
    """For --help: the config of the program as YAML, single values before mappings; palettes and tables are replaced by their size."""
    config = {
        str(key): value for key, value in cast(Card, OmegaConf.to_container(_root_)).items() if key not in ("hydra", "protocol_words")
    }
    for group, key, unit in (("classes", "palette", "colours"), ("words", "tables", "tables")):
        if isinstance(value := config.get(group, {}).get(key), (list, dict)) and value:
            config[group][key] = f"{len(value)} {unit}"
    ordered = dict(sorted(config.items(), key=lambda item: isinstance(item[1], dict)))
    text = yaml.dump(ordered, Dumper=_Dumper, default_flow_style=False, sort_keys=False, width=120, allow_unicode=True)
    return text.replace("$", "$$")  # Hydra replaces $CONFIG and the like


OmegaConf.register_new_resolver("project", lambda: str(CHECKOUT), replace=True)
for resolver in (run_folder, options, settings):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def plain(node: Any) -> Any:
    """A config node as dicts and lists, with interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def recorded(cfg: DictConfig) -> Card:
    """The config for the records of a run: the group `words` as its name, without the numbers of other protocols."""
    config = {key: value for key, value in plain(cfg).items() if key not in ("protocol_words", "protocols")}
    return {**config, "words": cfg.words.name}


def words_of(cfg: DictConfig) -> Card:
    """The arguments of a `Vocabulary` from the groups `classes` and `words`, and from the file that `classes.names` may name.

    Warns if the selected set of words has no table for these classes. Raises `InputError` if its table would replace
    prompts of the user.
    """
    if "words" not in cfg:
        raise InputError("the group words was removed (~words): use words=own for the words of the classes themselves")
    classes = plain(cfg.classes)
    if isinstance(classes["names"], str):
        names, prompts = read_words(Path(classes["names"]))
        classes |= {"names": names, "prompts": prompts | (classes.get("prompts") or {})}
    colour = classes.pop("background_colour", (0, 0, 0))
    if classes["names"] and classes["background"] is True:
        vocabulary = Vocabulary(**classes, background_colour=colour)
        classes |= {"names": list(vocabulary.names), "palette": vocabulary.palette}
    key = _table_key(cfg, classes["names"])
    if key is not None:
        table = plain(cfg.words.tables[key])
        _check_replaced(cfg, classes["prompts"] or {}, table, _shipped_prompts(key))
        classes["prompts"] = table
    elif classes["names"] and cfg.words.tables:
        warnings.warn(f"words={cfg.words.name} has no table for these classes, so their own words are used", stacklevel=2)
    return classes


def words_table(cfg: DictConfig, names: list[str]) -> Card | None:
    """The words of each class in the group `words`; None without a table for exactly these class names in this order."""
    key = _table_key(cfg, names)
    return None if key is None else plain(cfg.words.tables[key])


def _table_key(cfg: DictConfig, names: list[str]) -> str | None:
    """The name of the table for these class names, which is that of the file in conf/classes whose prompts it replaces."""
    return next((str(key) for key, table in cfg.words.tables.items() if list(table) == names), None)


def _check_replaced(cfg: DictConfig, prompts: Card, table: Card, shipped: Card) -> None:
    """Raise `InputError` if a table of words would replace prompts other than the `shipped` ones."""
    replaced = [name for name, words in prompts.items() if _as_list(words) not in (_as_list(shipped.get(name)), _as_list(table.get(name)))]
    if replaced:
        raise InputError(
            f"words={cfg.words.name} would replace your words (classes.prompts or the file classes.names) for {', '.join(replaced)}: "
            "give words=own to keep yours, or give none"
        )


@cache
def _shipped_prompts(name: str) -> Card:
    """The prompts of conf/classes/`name`.yaml; none if there is no such file."""
    path = CHECKOUT / "conf" / "classes" / f"{name}.yaml"
    return (read_class_file(path).get("prompts") or {}) if path.is_file() else {}


def _as_list(words: Any) -> list[Any]:
    return list(words) if isinstance(words, list) else [words]


def build(node: Any, **objects: Any) -> Any:
    """The object that a config node describes, given `objects` that OmegaConf must not touch (it turns dataclasses into dicts).

    Raises `InputError` for keys that its `_target_` does not have, and for invalid values.
    """
    try:
        target = instantiate(node, _convert_="all", _partial_=True)
    except InstantiationException as error:  # of a node below this one, such as model.released
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
    signature, values = inspect.signature(target.func), target.keywords | objects
    try:
        signature.bind(*target.args, **values)
    except TypeError as cause:
        unknown = [key for key in values if key not in signature.parameters and f"'{key}'" in str(cause)]
        message = _no_parameter(node, target.func, unknown[0]) if unknown else f"{node['_target_']}: {cause}"
        raise InputError(message) from cause
    return target(**objects)


def _no_parameter(node: Any, function: Any, key: str) -> str:
    """Describe a key of a config node that is no parameter of its `_target_`."""
    path = node._get_full_key(key) if isinstance(node, DictConfig) else key
    hint = question(similar(key, inspect.signature(function).parameters))
    return f"{path}: {function.__qualname__} has no such parameter{hint and f'; {hint}'}"
