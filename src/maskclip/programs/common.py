"""What the programs share: their errors, and how config nodes become objects."""

from __future__ import annotations

import logging
import sys
import textwrap
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.distributed.constants import default_pg_timeout

from maskclip.errors import InputError
from maskclip.results import PROJECT
from maskclip.vocabulary import read_words

Card = dict[str, Any]

OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)


def by_data(table: DictConfig | dict[str, Any], otherwise: Any, *, _root_: DictConfig) -> Any:
    """What a table in a config says of the data set of the run, as in `${by_data:{voc21:65,context60:50},40}`."""
    name = OmegaConf.select(_root_, "data.name", throw_on_missing=False)
    return table.get(name, otherwise)


OmegaConf.register_new_resolver("by_data", by_data, replace=True)


def options(*, _root_: DictConfig) -> str:
    """For --help: the config groups of a program and what there is to choose, what is chosen in brackets."""
    lines = []
    for group, chosen in sorted(OmegaConf.select(_root_, "hydra.runtime.choices").items()):
        names = sorted(path.stem for path in (PROJECT / "conf" / group).glob("[!_]*.yaml"))
        if names and group != "hydra" and names != [chosen]:
            words = " ".join(f"[{name}]" if name == chosen else name for name in names)
            lines += textwrap.wrap(words, 120, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14, break_on_hyphens=False)
    title = "Groups, as in group=option; what is chosen is in brackets, the files are in conf/:"
    return "\n".join([title, "", *lines, ""]) if lines else ""


OmegaConf.register_new_resolver("options", options, replace=True)


def be_quiet() -> None:
    """Keep what libraries tell of their own affairs off the screen."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(is not empty. Previous log files|Total length of `(list|DataLoader)`).*")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def program(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """A program whose input errors are one sentence on stderr and exit status 2, not a stack trace.

    In a multirun Hydra runs the other jobs before it stops with the first one's sentence.
    """

    @wraps(main)
    def wrapped(cfg: DictConfig) -> Any:
        be_quiet()
        try:
            if missing := OmegaConf.missing_keys(cfg):
                raise InputError(f"please give {' and '.join(f'{key}=...' for key in sorted(missing))}")
            return main(cfg)
        except (InputError, MisconfigurationException, OSError) as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise CompactHydraException(f"error: {error}") from None
            print(f"\nerror: {error}", file=sys.stderr)  # below a progress bar that was cut short
            sys.exit(2)

    return wrapped


def plain(node: Any) -> Any:
    """A config node as dicts and lists, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def words_of(node: DictConfig) -> Card:
    """The arguments of a `Vocabulary` from the group `classes`, with the words of a file where it names one."""
    words = plain(node)
    if isinstance(words["names"], str):
        names, prompts = read_words(Path(words["names"]))
        words |= {"names": names, "prompts": prompts | (words.get("prompts") or {})}
    return words


def build(node: Any, **objects: Any) -> Any:
    """What a config node describes, given objects that OmegaConf must not touch (it turns dataclasses into dicts)."""
    return instantiate(node, _convert_="all", _partial_=True)(**objects)


def build_trainer(cfg: DictConfig, patience: timedelta = default_pg_timeout, **options: Any) -> pl.Trainer:
    """The trainer of a config; over several processes, each waits for the others for so long.

    With `sync_batchnorm` null, batch statistics are of all GPUs where there are several.
    Over several processes, buffers are not broadcast before each forward pass: in validation one process may have an
    image more than another and would wait for ever. The tasks share them when it matters.
    """
    settings = plain(cfg.trainer)
    devices = settings["devices"]
    several = settings["num_nodes"] > 1 or (len(devices) > 1 if isinstance(devices, list) else devices not in (1, "1"))
    if settings["sync_batchnorm"] is None:
        settings["sync_batchnorm"] = several and settings["accelerator"] != "cpu" and torch.cuda.is_available()
    if settings["strategy"] == "ddp" or (settings["strategy"] == "auto" and several):
        options["strategy"] = DDPStrategy(broadcast_buffers=False, timeout=patience)
    return build({k: v for k, v in settings.items() if k not in options}, **options)
