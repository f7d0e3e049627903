"""Settings of the task that are invalid or would have no effect."""

from __future__ import annotations

from typing import Any

import pytest
from support.training import make_task

from maskclip import InputError, MaskCLIP

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("optimizer", ["lamb"], "give sgd or adamw"),
        ("guided", [1.5, 1, True, "1.0", -2, NAN, 4000.0], "give a fraction"),
        ("lr", [0, -1, True, "0.1", INFINITE, NAN], "give a number above 0"),
        ("flip", [1], "give true or false"),
        ("confidence", [True, "0.1", 30, NAN], "give a cosine"),
        ("distillation", [True, -1, "1", NAN], "give a number"),
        ("momentum", [True, 1.0, -0.1, "0.9"], "give a number"),
        ("weight_decay", [True, -1, INFINITE], "give a number"),
        ("power", [True, -1, INFINITE], "give a number"),
        ("warmup", [1.5, 1, True, "0.1", -2, NAN], "give a fraction"),
        ("encoder_lr", [0, -1, True, "0.1"], "give a number above 0"),
        ("decay_all", [0, "no"], "give true or false"),
        ("mean_over", [True], "give valid or all"),
    ],
)
def test_invalid_values(tiny: MaskCLIP, key: str, values: list[Any], expected: str) -> None:
    for value in values:
        with pytest.raises(InputError, match=f"task.{key}={value}: {expected}"):
            make_task(tiny, **{key: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 1e-5}, r"task.min_lr=0.0001: give a number from 0 to task.lr=1e-05"),
        ({"momentum": 0.9, "optimizer": "adamw"}, "task.momentum=0.9: give null: task.optimizer=adamw has no momentum"),
        ({"cutmix": 0.5, "guided": 0.5}, "task.cutmix=0.5: give 0, or task.guided=1.0"),
        *(
            ({"guided": guided, **option}, "with task.guided=0 the teacher labels nothing")
            for guided in (0, 0.0)
            for option in ({"flip": True}, {"confidence": 0.1}, {"distillation": 1.0})
        ),
    ],
)
def test_settings_that_contradict_each_other(tiny: MaskCLIP, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_task(tiny, **options)
