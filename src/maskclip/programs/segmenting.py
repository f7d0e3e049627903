"""`src/segment.py`: label maps for a folder of images."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from maskclip.errors import Check, InputError, check_settings, is_boolean, one_of
from maskclip.images.finding import LeftOut
from maskclip.inference.kernels import accelerate
from maskclip.inference.protocol import Protocol
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.student import Student
from maskclip.programs.checks import check_precision, check_trainer
from maskclip.programs.config import build, plain, words_of
from maskclip.programs.devices import launch
from maskclip.segmenting.inputs import BROKEN, InputImage, find_inputs, with_pages, write_broken
from maskclip.segmenting.outputs import Outputs
from maskclip.segmenting.resuming import ANOTHER_OUTPUT, prepare
from maskclip.segmenting.running import Segmentation
from maskclip.segmenting.sharing import segment_share
from maskclip.vocabulary import Vocabulary

LOCATIONS = ("_target_", "checkpoint", "pretrained", "text_embeddings", "cache")
"""Settings of models that are locations of files. The files themselves have fingerprints."""
SEGMENTING: dict[str, Check] = {
    "output": (lambda value: value is not None, "a folder, as in output=outputs/masks"),
    "overwrite": (is_boolean, "true or false; nothing was removed"),
    "pages": one_of("first", "all"),
}
PATIENCE = timedelta(days=7)
"""How long a finished process waits for the others, which may have larger images or slower GPUs."""


@contextmanager
def leave_on_sigterm() -> Iterator[None]:
    """End the program on SIGTERM through `with` and `finally`, with the exit status of shells."""
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@leave_on_sigterm()
def segment(cfg: DictConfig) -> None:
    """`src/segment.py`: label maps, overlays and more for images, one legend, and a list of the images that failed."""
    start, output = time.perf_counter(), check_segmenting(cfg)
    images, left_out = list_inputs(cfg, output)
    words = words_of(cfg)
    model: MaskCLIP | Student = build(cfg.model, classes=Vocabulary(**words) if words["names"] else None)
    kinds = {key: plain(cfg[key]) for key in ("masks", "overlays", "soft", "top", "features")}
    outputs = Outputs(output, model.vocabulary, **kinds)
    protocol: Protocol = build(cfg.protocol)
    settings = settings_of(cfg.model, model, protocol, outputs)
    options = {key: cfg[key] for key in ("batch_size", "num_workers", "num_writers", "pages")}
    task = Segmentation(accelerate(model, compile=cfg.compile, channels_last=cfg.channels_last), protocol, outputs, **options)
    processes = launch(cfg, PATIENCE)
    todo: list[InputImage] = []
    if processes.is_global_zero:
        todo = list_todo(outputs, images, settings, cfg.overwrite)
    folder, todo = processes.broadcast((output, todo))  # the default folder holds the time, which may differ
    task.outputs = replace(outputs, folder=folder)
    model.to(processes.device).eval()
    show_progress = cfg.trainer.enable_progress_bar and len(todo) > 1
    segment_share(task, todo, processes.global_rank, processes.world_size, show_progress)
    if processes.is_global_zero:
        report(task, images, len(todo), left_out, time.perf_counter() - start)


def check_segmenting(cfg: DictConfig) -> Path:
    """The output folder of a run. Raises `InputError` for settings that are missing or invalid."""
    check_precision(cfg)
    check_trainer(cfg)
    check_settings({key: cfg[key] for key in SEGMENTING}, SEGMENTING)
    if not cfg.input:
        raise InputError("no input: give an image or a folder, as in input=photos/")
    return Path(cfg.output)


def list_inputs(cfg: DictConfig, output: Path) -> tuple[list[InputImage], LeftOut]:
    """The images of `input`, and the files that were left out, which are printed. Further pages are for the first process only."""
    sources = plain(cfg.input)
    sources = [str(source) for source in (sources if isinstance(sources, list) else [sources])]
    with printed_if_slow(f"searching for images in {', '.join(sources)}"):
        images, left_out = find_inputs(sources, output)
    for sentence in left_out.sentences():
        rank_zero_only(print)(sentence, flush=True)
    if cfg.pages == "all":
        with printed_if_slow("counting the pages of image files"):
            images = rank_zero_only(with_pages, default=images)(images)  # the others receive the list of images to do
    return images, left_out


def settings_of(cfg: DictConfig, model: MaskCLIP | Student, protocol: Protocol, outputs: Outputs) -> dict[str, Any]:
    """The settings that outputs depend on, by config key; all runs into one folder must agree in them. `cfg`: the model's."""
    vocabulary, provenance = model.vocabulary, model.provenance
    configured = {f"model.{key}": value for key, value in plain(cfg).items() if key not in LOCATIONS}
    configured |= {f"model.{key}": provenance[key] for key in ("templates", "text_sha256") if key in provenance}
    return {
        **configured,
        "model.weights_sha256": model.weights_sha256,
        "classes.names": list(vocabulary.names),
        "classes.prompts": vocabulary.words_by_class,
        "classes.background": vocabulary.background,
        "classes.palette": [list(colour) for colour in vocabulary.colours],
        **{f"protocol.{name}": value for name, value in protocol.settings.items()},
        "top": outputs.top or None,
    }


def list_todo(
    outputs: Outputs, images: list[InputImage], settings: dict[str, Any], overwrite: bool, remedy: str = ANOTHER_OUTPUT
) -> list[InputImage]:
    """The images without up-to-date outputs; makes the output folder ready, see `prepare`."""
    with printed_if_slow(f"{len(images)} images; checking which are finished in {outputs.folder}"):
        todo = prepare(outputs, images, settings, overwrite, remedy)
    if len(todo) < len(images):
        print(f"skipping {len(images) - len(todo)} of {len(images)} images, which are finished", flush=True)
    return todo


@contextmanager
def printed_if_slow(message: str, after: float = 2.0) -> Iterator[None]:
    """Print the message on the first process if the block takes more than so many seconds: a million files take minutes."""
    timer = threading.Timer(after, rank_zero_only(print), [f"{message} ..."], {"flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def report(task: Segmentation, images: list[InputImage], todo: int, left_out: LeftOut, seconds: float) -> None:
    """Print a summary and write the list of images that failed.

    Raises `InputError` if there are any, or if images were left out because their format cannot be read.
    """
    broken, output = task.broken, task.outputs.folder
    done = len(images) - len(broken)
    rate = f"; {todo} in {seconds:.0f} s" if todo else ""
    where = f"; {', '.join(task.outputs.kinds)} and legend in {output}" if done else ""
    print(f"{done} of {len(images)} images segmented{rate}{where}")
    if several := task.several_pages:
        print(
            f"only the first page was segmented of {len(several)} files with several pages, such as {several[0]} "
            "(pages=all segments every page)"
        )
    write_broken(output / BROKEN, images, broken)
    if problems := list(problems_of(task, len(images), left_out)):
        raise InputError("\n".join(problems))


def problems_of(task: Segmentation, count: int, left_out: LeftOut) -> Iterator[str]:
    """Sentences about the images of a run that have no outputs."""
    if broken := task.broken:
        listed = "\n  ".join(reason for _, reason in broken[:20]) + ("\n  ..." if len(broken) > 20 else "")
        yield f"{len(broken)} of {count} images could not be segmented, see {task.outputs.folder / BROKEN}:\n  {listed}"
    if left_out.unreadable:
        remedy = "to leave them out on purpose, select the others with a glob such as 'input=photos/**/*.jpg'"
        yield f"images in formats that cannot be read were left out: {left_out.unreadable}; {remedy}"
