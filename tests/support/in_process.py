"""Run the programs in this process, which saves the seconds that imports take."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from maskclip import programs
from maskclip.programs import common

FUNCTIONS = {
    "train": programs.train,
    "eval": programs.evaluate,
    "segment": programs.segment,
    "export": programs.export,
    "embed_text": programs.embed_text,
}


def run(folder: Path, program: str, *overrides: str, threads: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a program with `folder` as working directory, as `support.programs.call` does. Outputs go to `folder`/out by default.

    Hydra writes no files. Errors without a sentence for the user are raised.
    """
    cfg = composed(folder, program, *overrides)
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    with process_state(folder, threads), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            common.program(FUNCTIONS[program])(cfg)
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess([program, *overrides], status, stdout.getvalue(), stderr.getvalue())


def start(folder: Path, file: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the file of a program (src/NAME.py) with a command line, as Python does, until it exits. Hydra composes the config."""
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    root, config = logging.getLogger(), HydraConfig.instance().cfg
    handlers, level = root.handlers[:], root.level
    with (
        process_state(folder, torch.get_num_threads()),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        patch.setattr("sys.argv", [str(ROOT / file), *words])
        patch.setattr(HydraConfig.instance(), "cfg", None)
        try:
            runpy.run_path(str(ROOT / file), run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            HydraConfig.instance().cfg = config
    return subprocess.CompletedProcess([file, *words], status, stdout.getvalue(), stderr.getvalue())


def composed(folder: Path, program: str, *overrides: str) -> DictConfig:
    """The config of a program, without Hydra's own, which is set for this process."""
    output = [] if any(override.startswith(("paths.output=", "output=")) for override in overrides) else [f"paths.output={folder}/out"]
    local = ["local=null"] if (ROOT / "conf" / "local").is_dir() else []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(program, overrides=[*local, *overrides, *output], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


@contextlib.contextmanager
def process_state(folder: Path, threads: int) -> Iterator[None]:
    """Restore what programs change for the whole process: variables, warnings and the number of threads."""
    threads_before, variables = torch.get_num_threads(), dict(os.environ)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MASKCLIP_CACHE", str(folder / "cache"))
        patch.setattr(warnings, "formatwarning", warnings.formatwarning)
        patch.chdir(folder)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)
            for name in os.environ.keys() - variables.keys():  # of Lightning's seeds
                del os.environ[name]
