"""Run CLIP, MaskCLIP with its refinements, and MaskCLIP+ on a tiny CLIP and synthetic scenes.

    python scripts/demo.py        # or: make demo

Prints a table and writes it to outputs/demo/summary.json (scores in percent), with a figure, outputs/demo/overview.png. Takes
five to eight minutes on two CPU cores.
"""

from __future__ import annotations

import time
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from torch import nn

from maskclip.data.datamodule import SegmentationData
from maskclip.evaluation.tables import table
from maskclip.files import CHECKOUT, write_json
from maskclip.images.drawing import colourise, legend, magnify, overlay, sheet, stack
from maskclip.images.writing import write_atomically
from maskclip.inference.predict import predict_image
from maskclip.programs.common import be_quiet
from maskclip.programs.config import Card, build, plain
from maskclip.programs.evaluating import evaluate_model
from maskclip.programs.training import train_student
from maskclip.textures.dataset import write_textures
from maskclip.vocabulary import Vocabulary

OUTPUT = CHECKOUT / "outputs" / "demo"
DATA = OUTPUT / "textures"
CELL = 160
KEYS = ("miou", "seen", "unseen", "harmonic", "pixel_accuracy")

TEACHERS = {
    "CLIP": ["model.strategy=clip"],
    "MaskCLIP": [],
    "MaskCLIP + KS": ["model.key_smoothing=0.8"],
    "MaskCLIP + PD": ["model.prompt_denoising=0.5"],
    "MaskCLIP + PD + KS": ["model.key_smoothing=0.8", "model.prompt_denoising=0.5"],
}
STUDENTS = {
    "MaskCLIP+ annotation-free": "textures_annotation_free",
    "MaskCLIP+ clean labels": "textures_clean_labels",
    "MaskCLIP+ zero-shot": "textures_zero_shot",
}


def settings(program: str, name: str, overrides: list[str]) -> tuple[DictConfig, Path]:
    """The config of a row of the table, and its output folder."""
    folder = OUTPUT / name.lower().replace(" + ", "_").replace("+", "_plus").replace(" ", "_")
    common = [f"data.root={DATA}", f"paths.output={folder}", "images_to_save=0", "trainer.accelerator=cpu", "data.num_workers=1"]
    return compose(program, overrides=[*overrides, *common]), folder


def run_teacher(name: str, overrides: list[str]) -> tuple[Card, nn.Module, SegmentationData]:
    """Evaluate a method without training; returns its result card, the model and the data."""
    cfg, folder = settings("eval", name, ["model=maskclip_textures", "data=textures", *overrides])
    vocabulary = Vocabulary(**plain(cfg.classes))
    model, data = build(cfg.model, classes=vocabulary), build(cfg.data, classes=vocabulary)
    return evaluate_model(cfg, model, data, folder), model, data


def run_student(name: str, experiment: str) -> tuple[Card, nn.Module]:
    """Train and evaluate a student; returns its result card and the model."""
    cfg, folder = settings("train", name, [f"experiment={experiment}"])
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    return train_student(cfg, folder)


def overview(models: dict[str, nn.Module], data: SegmentationData, count: int = 6) -> Image.Image:
    """A figure of validation images with the ground truth, the prediction of each model, and a legend."""
    palette, names = data.vocabulary.colours, data.vocabulary.names
    samples = data.dataset("val")
    most_classes = sorted(range(len(samples)), key=lambda i: -len(samples[i]["mask"].unique()))[: 6 * count : 6]
    rows = []
    for index in most_classes:
        sample = samples[index]
        pixels = sample["image"].permute(1, 2, 0).numpy()
        image = magnify(pixels, CELL)
        labels = [magnify(predict_image(model, Image.fromarray(pixels)), CELL) for model in models.values()]
        truth = magnify(sample["mask"].numpy().astype("uint8"), CELL)
        rows.append([image, colourise(truth, palette), *(overlay(image, label_map, palette, 0.7) for label_map in labels)])
    titles = [name.replace(" + ", "\n+ ", 1).replace("CLIP+ ", "CLIP+\n") for name in ("image", "ground truth", *models)]
    page = sheet(rows, titles, CELL)
    return stack([page, legend(names, palette, page.width)])


def main() -> None:
    start = time.perf_counter()
    be_quiet()
    cards: list[Card] = []
    models: dict[str, nn.Module] = {}
    with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
        vocabulary = Vocabulary(**plain(compose("eval", overrides=["data=textures"]).classes))
        write_textures(DATA, vocabulary.colours)
        for name, overrides in TEACHERS.items():
            print(f"\n{name}")
            card, models[name], data = run_teacher(name, overrides)
            cards.append(card | {"method": name})
        for name, experiment in STUDENTS.items():
            print(f"\n{name}")
            card, models[name] = run_student(name, experiment)
            cards.append(card | {"method": name})
    write_json(OUTPUT / "summary.json", [{"method": c["method"], **{key: c[key] for key in KEYS}} for c in cards])
    write_atomically(overview(models, data), OUTPUT / "overview.png")
    unseen = ", ".join(vocabulary.unseen)
    print(f"\n{table(cards)}\n\nmIoU in percent on {len(data.dataset('val'))} synthetic scenes; unseen: {unseen}.")
    print("Zero-shot is transductive: training images contain unseen classes, without labels.")
    print(f"table: {OUTPUT / 'summary.json'}\nfigure: {OUTPUT / 'overview.png'}")
    print(f"{time.perf_counter() - start:.0f} s in total")


if __name__ == "__main__":
    main()
