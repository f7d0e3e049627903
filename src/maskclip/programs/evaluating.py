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
from maskclip.programs.checks import check_precision, check_run
from maskclip.programs.config import Card, build, plain, recorded, words_of, words_table
from maskclip.programs.devices import build_trainer
from maskclip.programs.logs import log_scores, run_logger
from maskclip.tasks.callbacks import SaveImages, StepProgressBar
from maskclip.tasks.evaluation import Evaluation
from maskclip.vocabulary import Vocabulary

LABELS = {
    "none": "The student was trained without ground truth (data.labels=none).",
    "oracle_ignore": "The student was trained without ground truth except for the ignored pixels (data.labels=oracle_ignore), as released.",
    "seen": "Transductive zero-shot setting (data.labels=seen): training images contain unlabelled pixels of unseen classes, "
    "and all classes compete in the evaluation.",
    "all": "The student was trained with all labels (data.labels=all).",
}
"""The supervision of a student, by `data.labels` of its training."""


def evaluate(cfg: DictConfig) -> float:
    """`src/eval.py`: evaluate a model on a data set, print a table and write the result card. Returns the mIoU in percent."""
    check_precision(cfg)
    check_run(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    vocabulary = Vocabulary(**words_of(cfg))
    data: SegmentationData = build(cfg.data, classes=vocabulary)
    if data.pattern("masks", data.split) is None:
        raise InputError("an evaluation needs masks: set data.masks, or use src/segment.py to write label maps")
    data.dataset(data.split).with_options(**data.corruption_options)  # a missing data set is an error before the model is loaded
    model = accelerate(build(cfg.model, classes=vocabulary), compile=cfg.compile, channels_last=cfg.channels_last)
    output = Path(cfg.paths.output)
    with run_logger(cfg) as logger:
        card = evaluate_model(cfg, model, data, output)
        log_scores(logger, card)
    report(card, output)
    return card["miou"]


def evaluate_model(cfg: DictConfig, model: Segmenter, data: SegmentationData, output: Path, **more: Any) -> Card:
    """Evaluate a model on the split `data.split`; returns the result card, to which `more` is added.

    Writes `output`/results.json, `output`/confusion.npy (pixel counts with the ground truth in rows) and a few images.
    """
    protocol: Protocol = build(cfg.protocol)
    task = Evaluation(model, protocol, len(data.vocabulary))
    callbacks: list[pl.Callback] = [StepProgressBar()] if cfg.trainer.enable_progress_bar else []
    if cfg.images_to_save:
        callbacks.append(SaveImages(output / "saved_images", data.vocabulary, cfg.images_to_save))
    trainer = build_trainer(cfg, callbacks=callbacks, logger=False, enable_checkpointing=False, precision="32-true")
    start = time.perf_counter()
    trainer.test(task, data, verbose=False)
    assert task.counts is not None
    cost = {
        "images": task.images,
        "seconds": round(time.perf_counter() - start, 2),
        "device": device_name(trainer.strategy.root_device),
        "processes": trainer.world_size,
    }
    entries = score_entries(scores(task.counts, data.vocabulary.unseen_indices), data.vocabulary)
    card = {"method": model.method, "data": data.name, "split": data.split, **entries, **cost, **origin(cfg, model, data, protocol), **more}
    if trainer.is_global_zero:
        write_results(output, card, task.counts.numpy())
    return card


def origin(cfg: DictConfig, model: Segmenter, data: SegmentationData, protocol: Protocol) -> Card:
    """The entries of a result card that scores depend on: weights, words, protocol, config and versions."""
    return {
        "weights_sha256": model.weights_sha256,
        "provenance": model.provenance,
        "classes": list(data.vocabulary.names),
        "words": data.vocabulary.words_by_class,
        "words_of": "own" if words_table(cfg, list(data.vocabulary.names)) is None else cfg.words.name,
        "unseen_classes": list(data.vocabulary.unseen),
        "protocol": plain(cfg.protocol),
        "protocol_hash": protocol.hash,
        "config": recorded(cfg),
        "versions": versions(),
        "commit": commit(),
    }


def write_results(output: Path, card: Card, counts: np.ndarray) -> None:
    """Write confusion.npy, then results.json, and add `confusion_sha256`, the SHA-256 of the first file, to the card.

    After a kill between the two, the new matrix does not match the fingerprint in the old card.
    """
    stream = io.BytesIO()
    np.save(stream, counts)
    card["confusion_sha256"] = hashlib.sha256(stream.getvalue()).hexdigest()
    write_bytes(output / "confusion.npy", stream.getvalue())
    write_json(output / "results.json", card)


@rank_zero_only
def report(card: Card, output: Path) -> None:
    """Print the IoU of each class, the scores, the protocol and the path of the result card."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # sweeps.py prints one table at the end
        print(f"{card['method']}: mIoU {card['miou']:.2f}; result card: {output / 'results.json'}")
        return
    print(f"\n{class_table(card, card['unseen_classes'])}\n\n{table([card])}\n")
    images = f"{card['images']} images of {card['data']} ({card['split']})"
    print(f"Scores in percent of {images}, evaluated in {card['seconds']:.1f} s on {card['device']}.")
    if supervision := LABELS.get(card["provenance"].get("labels")):
        corrected = card["provenance"].get("corrected_images")
        print(f"{supervision} {corrected} images have corrected masks (data.corrected)." if corrected else supervision)
    print(f"Protocol {card['protocol_hash']}; result card: {output / 'results.json'}")
