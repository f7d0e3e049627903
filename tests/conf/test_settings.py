"""Settings that are misread or have no effect are errors: one table for each config group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy
from support.configs import composed, with_values

from maskclip import InputError, MaskCLIP, Protocol, Released, Student
from maskclip.data.datamodule import SegmentationData
from maskclip.data.transforms import TrainTransform
from maskclip.programs import common, embed_text, evaluate, export, segment, train
from maskclip.programs.common import build_trainer, check_precision, check_run, check_trainer
from maskclip.programs.training import check_training
from maskclip.tasks.callbacks import LabelPictures

NAN, INF = float("nan"), float("inf")
NOT_BOOLEAN: tuple[Any, ...] = (1, 0, "true", None)
NOT_COUNT: tuple[Any, ...] = (True, 0, -1, 1.5, "1", NAN, INF)
NOT_NUMBER: tuple[Any, ...] = (True, "1", NAN, INF)


def table(**keys: tuple[Any, ...]) -> list[tuple[str, Any]]:
    return [(key, value) for key, values in keys.items() for value in values]


@pytest.mark.parametrize(
    ("key", "value"),
    table(
        reduce_zero_label=NOT_BOOLEAN,
        truth=NOT_BOOLEAN,
        skip_broken=NOT_BOOLEAN,
        exif=NOT_BOOLEAN,
        batch_size=NOT_COUNT,
        eval_batch_size=NOT_COUNT,
        num_workers=(True, -1, 1.5, "1"),
        seed=(True, -1, 0.5, "1"),
        severity=(*NOT_COUNT, 6),
        labels=(True, "some"),
    ),
)
def test_data(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"data\.{key}="):
        SegmentationData(["cat", "dog"], root="x", images="%.jpg", masks="%.png", **{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    table(
        crop=(True, 0, -1, "96", [96, 0], [True, 96], 96.5),
        short=NOT_COUNT,
        long=NOT_COUNT,
        scale=([2, 1], [0, 1], [1], [True, 2], ["1", "2"], [0.5, INF], [NAN, 1]),
        most=(True, 0, -1, "1", NAN),
        flip=(True, -0.1, 1.1, "1", NAN),
        colour=NOT_BOOLEAN,
    ),
)
def test_augmentation(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"data\.augmentation\.{key}="):
        TrainTransform(**({"crop": 96} | {key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    table(
        key_smoothing=(*NOT_NUMBER, -0.1, 1.1, False),
        prompt_denoising=(*NOT_NUMBER, -0.1, 1.1),
        background_threshold=(*NOT_NUMBER, -0.1, 1.1),
        logit_scale=(*NOT_NUMBER, 0, -1),
        normalisation=(True, "x"),
        strategy=(True, "x"),
        released=({"softmax": 1}, {"softmax": "yes"}, {"softmax": None}),
    ),
)
def test_model(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=key):
        MaskCLIP.build(["zebra", "sky"], "maskclip-tiny", "textures", templates="simple", cache=None, **{key: value})


@pytest.mark.parametrize(("key", "value"), table(normalise=NOT_BOOLEAN, temperature=(*NOT_NUMBER, 0, -1)))
def test_student(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"student\.{key}="):
        Student({"names": ["cat", "dog"]}, 8, encoder="resnet18", weights=None, **{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    table(
        short_side=NOT_COUNT,
        long_side=NOT_COUNT,
        window=NOT_COUNT,
        scales=([True], [0], ["224"], 224, "224", []),
        flip=NOT_BOOLEAN,
        average=(True, "mean"),
        logit_scale=(*NOT_NUMBER, 0, -1),
        background_threshold=(*NOT_NUMBER, -0.1, 1.1),
        synonyms=(True, "x"),
        precision=(True, "bf16-mixed", 16),
        batch_size=NOT_COUNT,
        max_pixels=NOT_COUNT,
    ),
)
def test_protocol(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"protocol\.{key}"):
        Protocol(**{key: value})


def test_released_is_true_or_false() -> None:
    assert Released(softmax=True).names == ["softmax"]


@pytest.mark.parametrize(("key", "value"), table(every_n_train_steps=NOT_COUNT, count=NOT_COUNT))
def test_training_images(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"callbacks\.training_images\.{key}="):
        LabelPictures("unused", **{key: value})


def refused(check: Callable[[DictConfig], Any], cfg: DictConfig, invalid: list[tuple[str, Any]]) -> None:
    """The config passes the check, and each of the invalid values is named in its error."""
    check(cfg)
    for key, value in invalid:
        with pytest.raises(InputError, match=rf"{key}=.*: give"):
            check(with_values(cfg, **{key: value}))


def test_training() -> None:
    invalid = [
        *(
            (f"trainer.{key}", value)
            for key in ("max_steps", "accumulate_grad_batches", "log_every_n_steps")
            for value in (True, 0, 1.5, "x")
        ),
        *(("trainer.val_check_interval", value) for value in (True, 0, 0.5, None)),
        *(("trainer.precision", value) for value in ("bf16-true", "16-true", "bf16", "64-true", 16)),
        *(("trainer.gradient_clip_val", value) for value in (True, 0, -1, NAN, "x")),
        ("trainer.max_epochs", 5),
        ("trainer.check_val_every_n_epoch", 1),
        ("compile", 1),
        *((key, value) for key in ("seed", "images_to_save") for value in (True, -1)),
    ]
    refused(check_training, composed("train", "experiment=textures_zero_shot"), invalid)


def test_trainer() -> None:
    limits, switches = ("limit_train_batches", "limit_val_batches", "limit_test_batches"), ("sync_batchnorm", "benchmark", "deterministic")
    invalid = [
        *((f"trainer.{key}", value) for key in limits for value in (True, 0, 1, 0.0, 1.5, -1, NAN, "x")),
        *((f"trainer.{key}", value) for key in switches for value in (0, 1, "no", "warning")),
        ("logger.offline", "no"),
    ]
    refused(check_run, composed("eval", "logger=wandb"), invalid)


def test_limits_of_batches() -> None:
    for value in (None, 0.25, 1.0, 2, 100):
        values = {"trainer.limit_test_batches": value, "trainer.deterministic": "warn", "trainer.benchmark": True}
        check_trainer(with_values(composed("eval"), **values))


PROGRAMS: dict[str, Callable[[DictConfig], Any]] = {
    "train": train,
    "eval": evaluate,
    "segment": segment,
    "embed_text": embed_text,
    "export": export,
}
QUICK = {
    "train": ["experiment=textures_zero_shot", "student.encoder=resnet18", "student.weights=null", "data.batch_size=2", "trainer=cpu"],
    "eval": ["model=maskclip_textures", "data=textures", "trainer=cpu"],
    "segment": ["model=maskclip_textures", "classes=textures", "trainer=cpu"],
    "embed_text": ["model=maskclip_textures", "classes=textures"],
    "export": ["checkpoint=x"],
}
UNUSED = ("data.augmentation.",)
"""Settings of training, in the programs that do not train."""


def boolean_keys(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from boolean_keys(value, f"{path}.{key}" if path else key)
    elif isinstance(node, bool):
        yield path


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_boolean_is_true_or_false(program: str, textures_root: Path, tmp_path: Path) -> None:
    """Hydra passes "no" and "off" of a command line as strings, which are true in Python."""
    cfg = with_values(composed(program, *QUICK[program]), paths__output=str(tmp_path))
    for key in ("data.root", "input"):
        if key.partition(".")[0] in cfg:
            OmegaConf.update(cfg, key, str(textures_root))
    keys = [key for key in boolean_keys(OmegaConf.to_container(cfg)) if program == "train" or not key.startswith(UNUSED)]
    assert len(keys) > 8 or program == "export"
    for number, key in enumerate(keys):
        named = key.replace("teacher.", "model.")  # one class, whatever group names it
        value = ("no", 1, "off", 0)[number % 4]
        with pytest.raises(InputError, match=rf"\b{named}={value}: give true"):
            PROGRAMS[program](with_values(cfg, **{key: value}))


def test_no_and_off_are_strings() -> None:
    cfg = composed("eval", "data.exif=no", "data.truth=off", "data.skip_broken=false", "data.reduce_zero_label=0")
    assert [cfg.data[key] for key in ("exif", "truth", "skip_broken", "reduce_zero_label")] == ["no", "off", False, 0]


@pytest.mark.parametrize("program", ["eval", "segment"])
def test_the_precision_of_predictions_is_the_protocols(program: str) -> None:
    check_precision(composed(program))
    with pytest.raises(InputError, match=r"trainer.precision=bf16-mixed: give protocol.precision=bf16"):
        check_precision(with_values(composed(program), trainer__precision="bf16-mixed"))


@pytest.mark.parametrize(
    ("group", "values", "several"),
    [
        ("default", {}, False),
        ("gpu", {}, False),
        ("ddp", {}, True),
        ("default", {"devices": 4}, True),
        ("default", {"devices": [0, 1]}, True),
        ("default", {"devices": "0,1"}, True),
        ("default", {"devices": -1}, True),
        ("default", {"devices": "auto"}, True),
        ("gpu", {"devices": 4}, True),
        ("default", {"num_nodes": 2}, True),
        ("ddp", {"num_nodes": 2, "devices": 4}, True),
    ],
)
def test_several_gpus_are_the_same_however_they_are_requested(
    group: str, values: dict[str, Any], several: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They always have synchronised BatchNorm, buffers that are not broadcast, and the precision of one GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(common, "build", lambda node, **options: {**node, **options})
    cfg = with_values(composed("train", f"trainer={group}"), paths__output=str(tmp_path), trainer=values)
    made: Any = build_trainer(cfg)
    assert (made["sync_batchnorm"], made["precision"]) == (several, "32-true")
    assert isinstance(made["strategy"], DDPStrategy) == several


def test_other_strategies_are_refused(tmp_path: Path) -> None:
    for strategy in ("fsdp", "ddp_find_unused_parameters_true", True):
        with pytest.raises(InputError, match=r"trainer.strategy=.*: give auto or ddp"):
            build_trainer(with_values(composed("train"), paths__output=str(tmp_path), trainer__strategy=strategy))
