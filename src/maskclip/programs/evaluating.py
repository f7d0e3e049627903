"""`src/eval.py`: score a model on a data set."""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from maskclip.data.datamodule import SegmentationData
from maskclip.errors import InputError
from maskclip.evaluation.cards import commit, device_name, score_entries, versions
from maskclip.evaluation.scores import scores
from maskclip.evaluation.tables import class_table, table
from maskclip.files import write_bytes, write_json
from maskclip.inference.kernels import accelerate
from maskclip.inference.protocol import Protocol
from maskclip.inference.segmenter import Segmenter
from maskclip.programs.common import build_trainer, check_precision, check_run
from maskclip.programs.config import Card, build, plain, recorded, words_of, words_table
from maskclip.programs.logs import log_scores, run_logger
from maskclip.tasks import Evaluation
from maskclip.tasks.callbacks import SavePictures, StepProgressBar
from maskclip.vocabulary import Vocabulary

LABELS = {
    "none": "Training saw no ground truth (data.labels=none).",
    "oracle_ignore": "Of the ground truth, training saw which pixels are ignored (data.labels=oracle_ignore), as in the released code.",
    "seen": "Seen and unseen classes compete; unseen pixels occur in the training images, unlabelled: transductive (data.labels=seen).",
    "all": "Training saw all labels (data.labels=all).",
}
"""What a student's number has to be read with."""


def evaluate(cfg: DictConfig) -> float:
    """`src/eval.py`: evaluate a model on a data set, print the table, write the card. Returns the mIoU in percent."""
    check_precision(cfg)
    check_run(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    vocabulary = Vocabulary(**words_of(cfg))
    data: SegmentationData = build(cfg.data, classes=vocabulary)
    if data.pattern("masks", data.split) is None:
        raise InputError("there is nothing to score without masks (data.masks); src/segment.py writes label maps")
    data.dataset(data.split).with_options(**data.corruption_options)  # raises an error for a missing data set before the model is loaded
    model = accelerate(build(cfg.model, classes=vocabulary), compile=cfg.compile, channels_last=cfg.channels_last)
    output = Path(cfg.paths.output)
    with run_logger(cfg) as logger:
        card = evaluate_model(cfg, model, data, output)
        log_scores(logger, card)
    report(card, output)
    return card["miou"]


def evaluate_model(cfg: DictConfig, model: Segmenter, data: SegmentationData, output: Path, **more: Any) -> Card:
    """Evaluate a model on the split `data.split`; returns the result card, to which `more` is added.

    Writes `output`/results.json, `output`/confusion.npy (pixel counts, rows are the truth) and a few pictures.
    """
    protocol: Protocol = build(cfg.protocol)
    task = Evaluation(model, protocol, len(data.vocabulary))
    callbacks: list[pl.Callback] = [StepProgressBar()] if cfg.trainer.enable_progress_bar else []
    if cfg.images_to_save:
        callbacks.append(SavePictures(output / "images", data.vocabulary, cfg.images_to_save))
    trainer = build_trainer(cfg, callbacks=callbacks, logger=False, enable_checkpointing=False, precision="32-true")
    start = time.perf_counter()
    trainer.test(task, data, verbose=False)
    assert task.counts is not None
    card = {
        "method": model.method,
        "data": data.name,
        "split": data.split,
        **score_entries(scores(task.counts, data.vocabulary.unseen_indices), data.vocabulary),
        "images": task.images,
        "seconds": round(time.perf_counter() - start, 2),
        "device": device_name(trainer.strategy.root_device),
        "processes": trainer.world_size,
        "weights_sha256": model.weights_sha256,
        "provenance": model.provenance,
        "classes": list(data.vocabulary.names),
        "words": data.vocabulary.words,
        "words_of": "own" if words_table(cfg, list(data.vocabulary.names)) is None else cfg.words.name,
        "unseen_classes": list(data.vocabulary.unseen),
        "protocol": plain(cfg.protocol),
        "protocol_hash": protocol.hash,
        "config": recorded(cfg),
        "versions": versions(),
        "commit": commit(),
        **more,
    }
    if trainer.is_global_zero:
        write_results(output, card, task.counts.numpy())
    return card


def write_results(output: Path, card: Card, counts: np.ndarray) -> None:
    """Write confusion.npy, then results.json, and add `confusion_sha256`, the SHA-256 of the first file, to the card.

    A kill between the two leaves a new matrix beside an old card, whose fingerprint is then another one.
    """
    stream = io.BytesIO()
    np.save(stream, counts)
    card["confusion_sha256"] = hashlib.sha256(stream.getvalue()).hexdigest()
    write_bytes(output / "confusion.npy", stream.getvalue())
    write_json(output / "results.json", card)


@rank_zero_only
def report(card: Card, output: Path) -> None:
    """Print a card as a table, with the classes one by one and where the files are."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # one table comes in the end (sweeps.py)
        print(f"mIoU {card['miou']:.2f}, {card['method']}; card: {output / 'results.json'}")
        return
    print(f"\n{class_table(card, card['unseen_classes'])}\n\n{table([card])}\n")
    print(
        f"{card['images']} images of {card['data']} in {card['seconds']:.1f} s on {card['device']}; protocol {card['protocol_hash']}; "
        f"card: {output / 'results.json'}"
    )
    if caveat := LABELS.get(card["provenance"].get("labels")):
        print(caveat)
