"""What the programs share: their errors, and how config nodes become objects."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import tempfile
import textwrap
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from maskclip.errors import InputError, sentence
from maskclip.files import CHECKOUT, writing
from maskclip.programs import ranks
from maskclip.vocabulary import read_words

Card = dict[str, Any]

OmegaConf.register_new_resolver("project", lambda: str(CHECKOUT), replace=True)


def by_data(table: DictConfig | dict[str, Any], otherwise: Any, *, _root_: DictConfig) -> Any:
    """What a table in a config says of the data set of the run, as in `${by_data:{voc21:65,context60:50},40}`."""
    name = OmegaConf.select(_root_, "data.name", throw_on_missing=False)
    return table.get(name, otherwise)


OmegaConf.register_new_resolver("by_data", by_data, replace=True)


def options(*, _root_: DictConfig) -> str:
    """For --help: the config groups of a program and what there is to choose, what is chosen in brackets."""
    lines = []
    for group, chosen in sorted(OmegaConf.select(_root_, "hydra.runtime.choices").items()):
        names = sorted(path.stem for path in (CHECKOUT / "conf" / group).glob("[!_]*.yaml"))
        if names and group != "hydra" and names != [chosen]:
            words = " ".join(f"[{name}]" if name == chosen else name for name in names)
            lines += textwrap.wrap(words, 120, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14, break_on_hyphens=False)
    title = "Groups, as in group=option; what is chosen is in brackets, the files are in conf/:"
    return "\n".join([title, "", *lines, ""]) if lines else ""


OmegaConf.register_new_resolver("options", options, replace=True)


def run_folder(default: str, *, _root_: DictConfig) -> str:
    """Hydra's folder of a run: `default`, or the working directory where `output=...` names the only place that is written to."""
    return "." if "output" in _root_ and not OmegaConf.is_interpolation(_root_, "output") else default


OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)


class RunFolder(Callback):
    """Ends a program with a sentence where Hydra could not write its files to the run's folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self.check(Path(config.hydra.run.dir), config.hydra.output_subdir is not None)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.check(Path(config.hydra.sweep.dir), True)

    def check(self, folder: Path, written: bool) -> None:
        """Create the folder and, if Hydra is going to write there, check that a file fits on the disk.

        The file has no name: every process of a run under torchrun or SLURM does this at the same time.
        """
        try:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                if written:
                    with tempfile.TemporaryFile(dir=folder) as file:
                        file.write(bytes(1 << 16))
        except InputError as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {error}; another place is chosen by paths.outputs=/path/to/folder", file=sys.stderr)
            sys.exit(2)


class _Dumper(yaml.SafeDumper):
    """YAML with mappings below each other and lists of words or numbers in lines."""


_Dumper.add_representer(
    list,
    lambda dumper, values: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", values, flow_style=not any(isinstance(value, (list, dict)) for value in values)
    ),
)


def settings(*, _root_: DictConfig) -> str:
    """For --help: all settings of a program as YAML, its own before those of its groups; colours are counted."""
    shown = {str(key): value for key, value in cast(Card, OmegaConf.to_container(_root_)).items() if key != "hydra"}
    if palette := shown.get("classes", {}).get("palette"):
        shown["classes"]["palette"] = f"{len(palette)} colours"
    ordered = dict(sorted(shown.items(), key=lambda item: isinstance(item[1], dict)))
    text = yaml.dump(ordered, Dumper=_Dumper, default_flow_style=False, sort_keys=False, width=120, allow_unicode=True)
    return text.replace("$", "$$")  # Hydra fills in $CONFIG and the like


OmegaConf.register_new_resolver("settings", settings, replace=True)


def be_quiet() -> None:
    """Hide messages of libraries that do not concern the user."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
    warnings.filterwarnings("ignore", message=".*(is not empty. Previous log files|Total length of `(list|DataLoader)`).*")
    logging.getLogger().setLevel(logging.WARNING)
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def program(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """A program that prints input errors as one sentence on stderr and ends with status 2, without a stack trace.

    Of several processes, the first that fails reports its error, and all end with its status. In a multirun, Hydra runs the
    remaining jobs before it stops with the sentence of the first that failed. HYDRA_FULL_ERROR=1 shows all stack traces.
    """

    @wraps(main)
    def wrapped(cfg: DictConfig) -> Any:
        be_quiet()
        try:
            if missing := OmegaConf.missing_keys(cfg):
                raise InputError(f"please give {' and '.join(f'{key}=...' for key in sorted(missing))}")
            return main(cfg)
        except Exception as error:
            _report(error)
            raise
        except KeyboardInterrupt:
            rank_zero_only(print)("\ninterrupted", file=sys.stderr)
            sys.exit(130)
        finally:
            ranks.release()

    return wrapped


def _report(error: Exception) -> None:
    """Print the sentence of an error and end the program; returns if the error has no sentence but a stack trace to show."""
    if not ranks.first_to_fail(error):
        ranks.leave()
    message = None if os.environ.get("HYDRA_FULL_ERROR") == "1" else ranks.killed() or _sentence(error)
    if message is None:
        if ranks.several():
            traceback.print_exc()
            ranks.end(1)
        return
    if HydraConfig.get().mode == RunMode.MULTIRUN and not ranks.several():
        raise CompactHydraException(f"error: {message}") from None
    print(f"\nerror: {message}", file=sys.stderr)  # below a progress bar that was cut short
    ranks.end(2)


def _sentence(error: Exception) -> str | None:
    return str(error) if isinstance(error, MisconfigurationException) else sentence(error)


def plain(node: Any) -> Any:
    """A config node as dicts and lists, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def recorded(cfg: DictConfig) -> Card:
    """The config as records of a run keep it: the group `words` by its name, without its tables for other data sets."""
    return {**plain(cfg), "words": cfg.words.name}


def words_of(cfg: DictConfig) -> Card:
    """The arguments of a `Vocabulary` from the groups `classes` and `words`, with the words of a file where `classes` names one.

    Warns if the group `words` names a set of words that has no table for these classes. Raises `InputError` if it has one
    that would replace prompts of the user.
    """
    if "words" not in cfg:
        raise InputError("the group words was removed (~words): use words=own for the words of the classes themselves")
    classes = plain(cfg.classes)
    if isinstance(classes["names"], str):
        names, prompts = read_words(Path(classes["names"]))
        classes |= {"names": names, "prompts": prompts | (classes.get("prompts") or {})}
    table = words_table(cfg, classes["names"])
    if table is not None:
        _check_replaced(cfg, classes["prompts"] or {}, table)
        classes["prompts"] = table
    elif classes["names"] and cfg.words.name != "own":
        warnings.warn(f"words={cfg.words.name} has no table for these classes, so that their own words are used", stacklevel=2)
    return classes


def words_table(cfg: DictConfig, names: list[str]) -> Card | None:
    """The words that the group `words` gives each class; None without a table for exactly these class names in this order."""
    return next((table for table in plain(cfg.words.tables).values() if list(table) == names), None)


def _check_replaced(cfg: DictConfig, prompts: Card, table: Card) -> None:
    """Raise `InputError` if a table of words would replace prompts that are not those of a file in conf/classes."""
    files = map(OmegaConf.load, (CHECKOUT / "conf" / "classes").glob("*.yaml"))
    shipped: Card = next((plain(file.prompts) for file in files if list(file.names) == list(table)), prompts)
    replaced = [name for name, words in prompts.items() if _as_list(words) not in (_as_list(shipped.get(name)), _as_list(table.get(name)))]
    if replaced:
        raise InputError(
            f"words={cfg.words.name} would replace your words (classes.prompts or the file classes.names) for {', '.join(replaced)}: "
            "give words=own to keep yours, or give none"
        )


def _as_list(words: Any) -> list[Any]:
    return list(words) if isinstance(words, list) else [words]


def build(node: Any, **objects: Any) -> Any:
    """What a config node describes, given objects that OmegaConf must not touch (it turns dataclasses into dicts).

    Raises `InputError` for settings that it does not have, and for invalid ones.
    """
    try:
        made = instantiate(node, _convert_="all", _partial_=True)
    except InstantiationException as error:  # of a node below this one, such as model.released
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
    try:
        inspect.signature(made.func).bind(*made.args, **made.keywords | objects)
    except TypeError as cause:
        raise InputError(f"{node['_target_']}: {cause}") from cause
    return made(**objects)
