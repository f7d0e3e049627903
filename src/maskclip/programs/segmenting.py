"""`src/segment.py`: label maps for pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from maskclip.errors import InputError
from maskclip.images.finding import LeftOut
from maskclip.inference.kernels import accelerate
from maskclip.inference.protocol import Protocol
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.student import Student
from maskclip.programs.common import build_trainer, check_precision, check_trainer
from maskclip.programs.config import build, plain, words_of
from maskclip.segmenting.inputs import BROKEN, Picture, find_pictures, with_pages, write_broken
from maskclip.segmenting.outputs import Outputs
from maskclip.segmenting.resuming import prepare
from maskclip.tasks import Segmentation
from maskclip.tasks.callbacks import PictureProgress
from maskclip.vocabulary import Vocabulary

PLACES = ("_target_", "checkpoint", "pretrained", "text_embeddings", "cache")
"""Settings of models that say where something lies; what lies there has fingerprints."""
PATIENCE = timedelta(days=7)
"""How long a process that is done waits for the others, which may have larger pictures or slower cards."""


def segment(cfg: DictConfig) -> None:
    """`src/segment.py`: label maps, overlays and more for images, one legend, and a list of the images that failed."""
    check_precision(cfg)
    check_trainer(cfg)
    start, sources = time.perf_counter(), plain(cfg.input)
    if cfg.output is None:
        raise InputError("output=null: name a folder, as in output=masks/")
    if not isinstance(cfg.overwrite, bool):
        raise InputError(f"overwrite={cfg.overwrite}: give true or false; nothing was removed")
    output = Path(cfg.output)
    if not sources:
        raise InputError("no input: name an image or a folder, as in input=photos/")
    sources = [str(source) for source in (sources if isinstance(sources, list) else [sources])]
    if cfg.pages not in ("first", "all"):
        raise InputError(f"pages={cfg.pages}: give first or all")
    with said_if_slow(f"looking for images in {', '.join(sources)}"):
        pictures, left_out = find_pictures(sources, output)
    for sentence in left_out.sentences():
        rank_zero_only(print)(sentence, flush=True)
    if cfg.pages == "all":
        with said_if_slow("counting the pages of image files"):
            pictures = rank_zero_only(with_pages, default=pictures)(pictures)  # the others are given what is to be done
    words = words_of(cfg)
    model: MaskCLIP | Student = build(cfg.model, classes=Vocabulary(**words) if words["names"] else None)
    kinds = {key: plain(cfg[key]) for key in ("masks", "overlays", "soft", "top", "features")}
    outputs = Outputs(output, model.vocabulary, **kinds)
    protocol: Protocol = build(cfg.protocol)
    settings = settings_of(cfg, model, protocol, outputs)
    task = Segmentation(
        accelerate(model, compile=cfg.compile, channels_last=cfg.channels_last),
        protocol,
        outputs,
        partial(_prepare, outputs, pictures, settings, cfg.overwrite),
        **{key: cfg[key] for key in ("batch_size", "num_workers", "num_writers", "pages")},
    )
    callbacks: list[pl.Callback] = [PictureProgress()] if cfg.trainer.enable_progress_bar and len(pictures) > 1 else []
    options = {"callbacks": callbacks, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = build_trainer(cfg, patience=PATIENCE, **options)
    trainer.predict(task, return_predictions=False)
    if trainer.is_global_zero:
        report(task, pictures, left_out, time.perf_counter() - start)


def settings_of(cfg: DictConfig, model: MaskCLIP | Student, protocol: Protocol, outputs: Outputs) -> dict[str, Any]:
    """What the outputs depend on, by the names of the settings: two runs into one folder must have it in common."""
    vocabulary, made = model.vocabulary, model.provenance
    given = {f"model.{key}": value for key, value in plain(cfg.model).items() if key not in PLACES}
    given |= {f"model.{key}": made[key] for key in ("templates", "text_sha256") if key in made}
    return {
        **given,
        "model.weights_sha256": model.weights_sha256,
        "classes.names": list(vocabulary.names),
        "classes.prompts": vocabulary.words,
        "classes.background": vocabulary.background,
        "classes.palette": [list(colour) for colour in vocabulary.colours],
        **{f"protocol.{name}": value for name, value in protocol.settings.items()},
        "top": outputs.top or None,
    }


def _prepare(outputs: Outputs, pictures: list[Picture], settings: dict[str, Any], overwrite: bool) -> list[Picture]:
    with said_if_slow(f"{len(pictures)} images; looking which of them {outputs.folder} has already"):
        todo = prepare(outputs, pictures, settings, overwrite)
    if len(todo) < len(pictures):
        print(f"{len(pictures) - len(todo)} of {len(pictures)} were there already", flush=True)
    return todo


@contextmanager
def said_if_slow(what: str, after: float = 2.0) -> Iterator[None]:
    """Say on the first process what is being done, if it takes more than so many seconds: a million files take minutes."""
    timer = threading.Timer(after, rank_zero_only(print), [f"{what} ..."], {"flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def report(task: Segmentation, pictures: list[Picture], left_out: LeftOut, seconds: float) -> None:
    """Print what was done and write the list of images that failed.

    Raises `InputError` if there are any, or if images were left out because their format cannot be read.
    """
    broken, output = task.broken, task.outputs.folder
    done = len(pictures) - len(broken)
    rate = f"; {len(task.todo)} in {seconds:.0f} s" if task.todo else ""
    where = f"; {', '.join(task.outputs.kinds)} and legend in {output}" if done else ""
    print(f"{done} of {len(pictures)} images segmented{rate}{where}")
    if several := task.several_pages:
        print(
            f"files with several pages: {len(several)}, such as {several[0]}; only the first page was segmented (pages=all for every page)"
        )
    write_broken(output / BROKEN, pictures, broken)
    problems = []
    if broken:
        listed = "\n  ".join(why for _, why in broken[:20]) + ("\n  ..." if len(broken) > 20 else "")
        problems.append(f"{len(broken)} of {len(pictures)} images could not be segmented, see {output / BROKEN}:\n  {listed}")
    if left_out.unreadable:
        remedy = "to leave them out on purpose, name the others by a glob such as 'input=photos/**/*.jpg'"
        problems.append(f"images in formats that cannot be read were left out: {left_out.unreadable}; {remedy}")
    if problems:
        raise InputError("\n".join(problems))
