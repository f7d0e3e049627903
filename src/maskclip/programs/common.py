"""What the programs share: messages, errors and the folder of a run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from maskclip.errors import InputError, sentence
from maskclip.files import CHECKOUT, writing
from maskclip.programs import mistakes, ranks

FULL_ERROR = "HYDRA_FULL_ERROR"


_full_error: list[str | None] = []
"""While Hydra composes configs: the user's value of HYDRA_FULL_ERROR."""


class RunFolder(Callback):
    """Ends a program with an error message if `+` added an unknown key, or if Hydra cannot write its files to the run's folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _restore()
        self.check_keys(config)
        self.check(Path(config.hydra.run.dir), config.hydra.output_subdir is not None)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.check_keys(config)
        self.check(Path(config.hydra.sweep.dir), True)
        if not str(config.hydra.launcher._target_).endswith("BasicLauncher"):  # jobs in other processes inherit the variable
            _restore()

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        _restore()

    def check_keys(self, config: DictConfig) -> None:
        """End the program if `+` added an unknown key."""
        if message := mistakes.unknown_additions(config):
            print(f"error: {message}", file=sys.stderr)
            sys.exit(2)

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
            if _traces():
                raise
            print(f"error: {error}; another place is chosen by paths.outputs=/path/to/folder", file=sys.stderr)
            sys.exit(2)


def be_quiet() -> None:
    """Hide messages of libraries that do not concern the user."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # frozen towers stay in eval mode
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
    warnings.filterwarnings("ignore", message=".*(is not empty. Previous log files|Total length of `(list|DataLoader)`).*")
    logging.getLogger().setLevel(logging.WARNING)
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def entry_point(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """A `program` with Hydra's command line and the config `name` in conf/.

    Mistakes on the command line are printed as one sentence, and the exit status is 2.
    """

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[[], None]:
        run = hydra.main(version_base="1.3", config_path=str(CHECKOUT / "conf"), config_name=name)(program(main))

        @wraps(main)
        def wrapped() -> None:
            if _traces():
                return run()
            try:
                with _raising():
                    run()
            except HydraException as error:
                print(f"error: {mistakes.describe(error, name, sys.argv[1:])}", file=sys.stderr)
                sys.exit(2)

        return wrapped

    return decorate


@contextlib.contextmanager
def _raising() -> Iterator[None]:
    """Let Hydra raise its errors, which it would print, until the first job starts (`RunFolder`)."""
    _full_error.append(os.environ.get(FULL_ERROR))
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        _restore()


def _traces() -> bool:
    """Whether the user asks for stack traces."""
    return os.environ.get(FULL_ERROR) == "1" and not _full_error


def _restore() -> None:
    """Restore the variable that `_raising` sets, for the jobs and their processes. Does nothing the second time."""
    if _full_error:
        value = _full_error.pop()
        os.environ.pop(FULL_ERROR)
        if value is not None:
            os.environ[FULL_ERROR] = value


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
    message = None if _traces() else ranks.killed() or _sentence(error)
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
