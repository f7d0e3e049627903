"""What the programs share: messages, errors and the folder of a run."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from maskclip.errors import InputError, sentence
from maskclip.files import writing
from maskclip.programs import ranks


class RunFolder(Callback):
    """Ends a program with an error message if Hydra cannot write its files to the run's folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self.check(Path(config.hydra.run.dir), config.hydra.output_subdir is not None)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.check(Path(config.hydra.sweep.dir), True)

    def check(self, folder: Path, written: bool) -> None:
        """Create the folder and, if Hydra will write to it, check that the disk has space.

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
    remaining jobs before it stops with the message of the first that failed. HYDRA_FULL_ERROR=1 shows all stack traces.
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
    """Print the message of an error and end the program. Return if the error has to be shown as a stack trace."""
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
