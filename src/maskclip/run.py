"""The programs behind src/*.py: the only module that knows Hydra and OmegaConf."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from maskclip.callbacks import AtomicCheckpoints, SavePictures, StepProgressBar
from maskclip.data.datamodule import SegmentationData
from maskclip.data.images import find_images
from maskclip.errors import InputError
from maskclip.files import write_json
from maskclip.inference import Protocol, Segmenter
from maskclip.metrics import scores
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.student import Student, load_student
from maskclip.results import PROJECT, class_table, commit, device_name, score_entries, table, versions
from maskclip.segment import segment_files
from maskclip.tasks import Evaluation
from maskclip.vocabulary import Vocabulary, read_words

LABELS = {
    "none": "Training saw no ground truth (data.labels=none).",
    "oracle_ignore": "Of the ground truth, training saw which pixels are ignored (data.labels=oracle_ignore), as in the released code.",
    "seen": "Seen and unseen classes compete; unseen pixels occur in the training images, unlabelled: transductive (data.labels=seen).",
    "all": "Training saw all labels (data.labels=all).",
}
"""What a student's number has to be read with."""

log = logging.getLogger(__name__)
Card = dict[str, Any]

OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)


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


def build_trainer(cfg: DictConfig, **options: Any) -> pl.Trainer:
    """The trainer of a config.

    Over several processes, buffers are not broadcast before each forward pass: in validation one process may have an
    image more than another and would wait for ever. The tasks share them when it matters.
    """
    settings = plain(cfg.trainer)
    several = settings["num_nodes"] > 1 or settings["devices"] not in (1, "1")
    if settings["strategy"] == "ddp" or (settings["strategy"] == "auto" and several):
        options["strategy"] = DDPStrategy(broadcast_buffers=False)
    return build({k: v for k, v in settings.items() if k not in options}, **options)


def evaluate_model(cfg: DictConfig, model: Segmenter, data: SegmentationData, output: Path) -> Card:
    """Evaluate a model on the validation split; returns the result card.

    Writes `output`/results.json, `output`/confusion.npy (pixel counts, rows are the truth) and a few pictures.
    """
    protocol: Protocol = build(cfg.protocol)
    task = Evaluation(model, protocol, len(data.vocabulary))
    callbacks: list[pl.Callback] = [StepProgressBar()] if cfg.trainer.enable_progress_bar else []
    if cfg.pictures:
        callbacks.append(SavePictures(output / "pictures", data.vocabulary, cfg.pictures))
    trainer = build_trainer(cfg, callbacks=callbacks, logger=False, enable_checkpointing=False)
    start = time.perf_counter()
    trainer.test(task, data, verbose=False)
    assert task.counts is not None
    card = {
        "method": model.method,
        "data": data.name,
        "split": "val",
        **score_entries(scores(task.counts, data.vocabulary.unseen_indices), data.vocabulary),
        "images": task.images,
        "seconds": round(time.perf_counter() - start, 2),
        "device": device_name(trainer.strategy.root_device),
        "processes": trainer.world_size,
        "weights_sha256": model.weights_sha256,
        "provenance": model.provenance,
        "classes": list(data.vocabulary.names),
        "words": data.vocabulary.words,
        "unseen_classes": list(data.vocabulary.unseen),
        "protocol": plain(cfg.protocol),
        "config": plain(cfg),
        "versions": versions(),
        "commit": commit(),
    }
    if trainer.is_global_zero:
        output.mkdir(parents=True, exist_ok=True)
        np.save(output / "confusion.npy", task.counts.numpy())
        write_json(output / "results.json", card)
    return card


def evaluate(cfg: DictConfig) -> float:
    """`src/eval.py`: evaluate a model on a data set, print the table, write the card. Returns the mIoU in percent."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    vocabulary = Vocabulary(**words_of(cfg.classes))
    data: SegmentationData = build(cfg.data, classes=vocabulary)
    if cfg.data.masks is None:
        raise InputError("there is nothing to score without masks (data.masks); src/segment.py writes label maps")
    data.dataset("val")  # a missing data set is said before a model is loaded
    model = build(cfg.model, classes=vocabulary)
    output = Path(cfg.paths.output)
    card = evaluate_model(cfg, model, data, output)
    report(card, output)
    return card["miou"]


@rank_zero_only
def report(card: Card, output: Path) -> None:
    """Print a card as a table, with the classes one by one and where the files are."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # one table comes in the end (sweeps.py)
        print(f"mIoU {card['miou']:.1f}, {card['method']}; card: {output / 'results.json'}")
        return
    print(f"\n{class_table(card, card['unseen_classes'])}\n\n{table([card])}\n")
    print(f"{card['images']} images of {card['data']} in {card['seconds']:.1f} s on {card['device']}; card: {output / 'results.json'}")
    if said := LABELS.get(card["provenance"].get("labels")):
        print(said)


def train(cfg: DictConfig) -> float | None:
    """`src/train.py`: train a student, evaluate it, print the table, write the card.

    Returns the mIoU in percent; None where there are no masks to score with.
    """
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    output = Path(cfg.paths.output)
    card, _ = train_student(cfg, output)
    if card is None:
        print(f"No masks, so nothing is scored; the student is {output / 'checkpoints' / 'last.ckpt'}")
        return None
    report(card, output)
    return card["miou"]


def train_student(cfg: DictConfig, output: Path) -> tuple[Card | None, Student]:
    """The card of a student trained on the labels of its teacher, and the student; checkpoints go to `output`.

    The card is None where the data have no masks to score with.
    """
    words = words_of(cfg.classes)
    vocabulary = Vocabulary(**words)
    data: SegmentationData = build(cfg.data, classes=vocabulary)
    for split in ("train", "val"):
        data.dataset(split)
    resume = checkpoint_to_resume(cfg.resume)
    teacher = build(cfg.teacher, classes=vocabulary)
    task = build(
        cfg.task,
        classes=words,
        embedding_dim=teacher.embedding_dim,
        protocol=plain({k: v for k, v in cfg.protocol.items() if k != "_target_"}),
        run={
            "data": data.name,
            "augmentation": data.augmentation,
            "batch_size": data.batch_size,
            "seed": data.seed,
            "max_steps": cfg.trainer.max_steps,
        },
        provenance={"method": cfg.method, "labels": data.labels, "teacher": {"method": teacher.method, **teacher.provenance}},
    )
    task.attach_teacher(teacher)
    if resume:
        check_resumable(task, resume)
    callbacks = [build(c) for c in cfg.callbacks.values() if c is not None]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    logger = build(cfg.logger) if cfg.logger else False
    trainer = build_trainer(cfg, callbacks=callbacks, logger=logger, plugins=[AtomicCheckpoints()])
    trainer.fit(task, data, ckpt_path=resume)
    trainer.save_checkpoint(output / "checkpoints" / "last.ckpt")
    student = task.student.eval()
    return (None if cfg.data.masks is None else evaluate_model(cfg, student, data, output)), student


def checkpoint_to_resume(resume: str | None) -> str | None:
    """The checkpoint of a run folder or the file itself."""
    if resume is None:
        return None
    path = Path(resume)
    path = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"nothing to resume: no checkpoint {path} (resume)")
    return str(path)


def check_resumable(task: pl.LightningModule, checkpoint: str) -> None:
    """Raise `InputError` if the checkpoint is of another student, other classes, other draws or another schedule."""
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)["hyper_parameters"]
    except Exception as cause:
        raise InputError(f"{checkpoint} is not a checkpoint of src/train.py ({type(cause).__name__})") from cause
    differ = [key for key, value in dict(task.hparams).items() if key != "provenance" and stored.get(key) != value]
    if differ:
        raise InputError(
            f"{checkpoint} was trained with other settings ({', '.join(differ)}); "
            "resume with the experiment and overrides of the run that wrote it"
        )


def segment(cfg: DictConfig) -> None:
    """`src/segment.py`: label maps, overlays and a legend for images or folders of images."""
    if not cfg.input:
        raise InputError("no input: name an image or a folder, as in input=photos/")
    sources = [Path(str(s)) for s in (cfg.input if OmegaConf.is_list(cfg.input) else [cfg.input])]
    files = [(path, source) for source in sources for path in find_images(source)]
    words = words_of(cfg.classes)
    vocabulary = Vocabulary(**words) if words["names"] else None
    model = build(cfg.model, classes=vocabulary)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(automatic if cfg.device == "auto" else cfg.device)
    except RuntimeError:
        raise InputError(f"device={cfg.device}: choose auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={cfg.device}: there is no GPU that torch can use here")
    broken = segment_files(model.to(device), files, build(cfg.protocol), Path(cfg.output))
    print(f"{len(files) - len(broken)} of {len(files)} images segmented; label maps, overlays and legend in {cfg.output}")
    if broken:
        raise InputError(f"{len(broken)} of {len(files)} images could not be read:\n  " + "\n  ".join(broken))


def embed(cfg: DictConfig) -> None:
    """`src/embed.py`: the text embeddings of the class names, computed and written to a file."""
    model: MaskCLIP = build(cfg.model, classes=Vocabulary(**words_of(cfg.classes)))
    output = Path(cfg.output)
    model.save_text(output)
    print(f"{len(model.text_embeddings)} words of {len(model.vocabulary)} classes, {model.embedding_dim} dimensions: {output}")


def export(cfg: DictConfig) -> None:
    """`src/export.py`: a trained student as a folder that needs neither Hydra nor Lightning nor CLIP."""
    student = load_student(cfg.checkpoint)
    student.save(cfg.output)
    size = sum(path.stat().st_size for path in Path(cfg.output).iterdir()) / 1e6
    print(f"{student.method}, {len(student.vocabulary)} classes, {size:.1f} MB: {cfg.output}")
