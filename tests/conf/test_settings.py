"""Settings that are misread or have no effect are errors: one table for each config group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy

from maskclip import InputError, MaskCLIP, Protocol, Released, Student
from maskclip.data.datamodule import SegmentationData
from maskclip.data.transforms import TrainTransform
from maskclip.programs import devices, embed, evaluate, export, segment, train
from maskclip.programs.checks import check_precision, check_run, check_trainer, check_training
from maskclip.programs.devices import build_trainer
from maskclip.tasks.callbacks import TrainingImages

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
        eval_batch=NOT_COUNT,
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
        batch=NOT_COUNT,
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
        TrainingImages("unused", **{key: value})


@pytest.mark.parametrize(
    "override",
    [
        *(
            f"trainer.{key}={value}"
            for key in ("max_steps", "accumulate_grad_batches", "log_every_n_steps")
            for value in ("true", 0, 1.5, "x")
        ),
        *(f"trainer.val_check_interval={value}" for value in ("true", 0, 0.5, "null")),
        *(f"trainer.precision={value}" for value in ("bf16-true", "16-true", "bf16", "64-true", 16)),
        *(f"trainer.gradient_clip_val={value}" for value in ("true", 0, -1, "nan", "x")),
        "trainer.max_epochs=5",
        "trainer.check_val_every_n_epoch=1",
        "compile=1",
        "seed=true",
        "seed=-1",
        "pictures=true",
        "pictures=-1",
    ],
)
def test_training(override: str, compose_cfg: Callable[..., DictConfig]) -> None:
    check_training(compose_cfg("train", "experiment=textures_zero_shot"))
    with pytest.raises(InputError, match=rf"{override.partition('=')[0]}=.*: give"):
        check_training(compose_cfg("train", "experiment=textures_zero_shot", override))


@pytest.mark.parametrize(
    "override",
    [
        *(
            f"trainer.limit_{part}_batches={value}"
            for part in ("train", "val", "test")
            for value in ("true", 0, 1, 0.0, 1.5, -1, "nan", "x")
        ),
        *(f"trainer.{key}={value}" for key in ("sync_batchnorm", "benchmark", "deterministic") for value in (0, 1, "no", "warning")),
        "logger.offline=no",
    ],
)
def test_trainer(override: str, compose_cfg: Callable[..., DictConfig]) -> None:
    check_run(compose_cfg("eval", "logger=wandb"))
    with pytest.raises(InputError, match=rf"{override.partition('=')[0]}=.*: give"):
        check_run(compose_cfg("eval", "logger=wandb", override))


@pytest.mark.parametrize("value", ["null", 0.25, 1.0, 2, 100])
def test_limits_of_batches(value: Any, compose_cfg: Callable[..., DictConfig]) -> None:
    check_trainer(compose_cfg("eval", f"trainer.limit_test_batches={value}", "trainer.deterministic=warn", "trainer.benchmark=true"))


PROGRAMS: dict[str, Callable[[DictConfig], Any]] = {
    "train": train,
    "eval": evaluate,
    "segment": segment,
    "embed": embed,
    "export": export,
}
QUICK = {
    "train": ["experiment=textures_zero_shot", "student.encoder=resnet18", "student.weights=null", "data.batch_size=2", "trainer=cpu"],
    "eval": ["model=maskclip_textures", "data=textures", "trainer=cpu"],
    "segment": ["model=maskclip_textures", "classes=textures", "trainer=cpu"],
    "embed": ["model=maskclip_textures", "classes=textures"],
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
def test_every_boolean_is_true_or_false(program: str, compose_cfg: Callable[..., DictConfig], textures_root: Path, tmp_path: Path) -> None:
    """Hydra passes "no" and "off" of a command line as strings, which are true in Python."""
    cfg = compose_cfg(program, *QUICK[program], f"paths.output={tmp_path}")
    for key in ("data.root", "input"):
        if key.partition(".")[0] in cfg:
            OmegaConf.update(cfg, key, str(textures_root))
    keys = [key for key in boolean_keys(OmegaConf.to_container(cfg)) if program == "train" or not key.startswith(UNUSED)]
    assert len(keys) > 8 or program == "export"
    for key in keys:
        shown = key.replace("teacher.", "model.")  # one class, whatever group names it
        for value in ("no", "off", 0, 1):
            changed = cfg.copy()
            OmegaConf.update(changed, key, value)
            with pytest.raises(InputError, match=rf"\b{shown}={value}: give true"):
                PROGRAMS[program](changed)


def test_no_and_off_are_strings(compose_cfg: Callable[..., DictConfig]) -> None:
    assert [compose_cfg("eval", f"data.exif={value}").data.exif for value in ("no", "off", "false", 0)] == ["no", "off", False, 0]


@pytest.mark.parametrize("program", ["eval", "segment"])
def test_the_precision_of_predictions_is_the_protocols(program: str, compose_cfg: Callable[..., DictConfig]) -> None:
    check_precision(compose_cfg(program))
    with pytest.raises(InputError, match=r"trainer.precision=bf16-mixed: give protocol.precision=bf16"):
        check_precision(compose_cfg(program, "trainer.precision=bf16-mixed"))


@pytest.mark.parametrize(
    ("overrides", "several"),
    [
        (["trainer=default"], False),
        (["trainer=gpu"], False),
        (["trainer=ddp"], True),
        (["trainer.devices=4"], True),
        (["trainer.devices=[0,1]"], True),
        (["trainer.devices='0,1'"], True),
        (["trainer.devices=-1"], True),
        (["trainer.devices=auto"], True),
        (["trainer=gpu", "trainer.devices=4"], True),
        (["trainer.num_nodes=2"], True),
        (["trainer=ddp", "trainer.num_nodes=2", "trainer.devices=4"], True),
    ],
)
def test_several_gpus_are_the_same_however_they_are_asked_for(
    overrides: list[str], several: bool, compose_cfg: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They always have synchronised BatchNorm, buffers that are not broadcast, and the precision of one GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "build", lambda node, **options: {**node, **options})
    made: Any = build_trainer(compose_cfg("train", f"paths.output={tmp_path}", *overrides))
    assert (made["sync_batchnorm"], made["precision"]) == (several, "32-true")
    assert isinstance(made["strategy"], DDPStrategy) == several


def test_other_strategies_are_refused(compose_cfg: Callable[..., DictConfig], tmp_path: Path) -> None:
    for strategy in ("fsdp", "ddp_find_unused_parameters_true", "true"):
        with pytest.raises(InputError, match=r"trainer.strategy=.*: give auto or ddp"):
            build_trainer(compose_cfg("train", f"paths.output={tmp_path}", f"trainer.strategy={strategy}"))
