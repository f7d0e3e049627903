"""Time of a short training alone and next to busy processes, for several settings of waiting OpenMP threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from maskclip.evaluation.cards import device_name
from maskclip.files import CHECKOUT
from maskclip.textures.dataset import write_textures

SETTINGS: dict[str, dict[str, str]] = {
    "waiting threads spin": {"GOMP_SPINCOUNT": "300000"},  # the default of GNU OpenMP
    "waiting threads sleep": {},  # set by maskclip.threads
    "one thread": {"OMP_NUM_THREADS": "1"},
}
VARIABLES = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"}
"""Variables of the user's environment that the training does not inherit."""
TRAINING = (
    "experiment=textures_annotation_free",
    "trainer=cpu",
    "trainer.max_steps=30",
    "trainer.val_check_interval=30",
    "trainer.enable_progress_bar=false",
    "data.batch_size=4",
    "data.num_workers=1",
)


def benchmark_threads(runs: int) -> None:
    """Print the seconds of 30 training steps, the minimum of `runs`, alone and with a busy process for every core, and their ratio."""
    cpus = os.cpu_count() or 1
    print(f"{device_name(torch.device('cpu'))}, {cpus} cores, torch {torch.__version__}; 30 steps of textures_annotation_free, batch 4")
    print(f"{'':<28}{'alone':>9}{'busy':>9}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_textures(root / "data", [(i, i, i) for i in range(13)], train=40, val=5)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
        for _ in range(runs):  # settings take turns, as the load of a shared machine changes
            for name, setting in SETTINGS.items():
                alone = training_seconds(root, setting)
                with busy_processes(cpus):
                    times[name].append((alone, training_seconds(root, setting)))
    for name, pairs in times.items():
        alone, busy = (min(column) for column in zip(*pairs, strict=True))
        print(f"{name:<28}{alone:>8.2f}s{busy:>8.2f}s{busy / alone:>7.1f}x")


def training_seconds(root: Path, setting: dict[str, str]) -> float:
    """Seconds of the training steps, without start-up and evaluation, in a separate process."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    line = [sys.executable, str(CHECKOUT / "src" / "train.py"), *TRAINING, f"data.root={root}/data", f"hydra.run.dir={root}/run"]
    subprocess.run(line, check=True, env=environment | setting, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads((root / "run" / "results.json").read_text())["training"]["seconds"]


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
