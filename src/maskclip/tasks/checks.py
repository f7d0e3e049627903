"""Valid settings of the tasks, as tables of key, predicate and expected value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from maskclip.errors import (
    BOOLEAN,
    COUNT,
    Check,
    InputError,
    check_settings,
    is_count,
    is_number,
    is_probability,
    one_of,
    optional,
    require,
)


def is_part(value: Any) -> bool:
    """Whether a value is a fraction of the run (float from 0.0 to 1.0) or a number of steps (int other than the ambiguous 1)."""
    return (isinstance(value, float) and 0 <= value <= 1) or (is_count(value, least=0) and value != 1)


POSITIVE: Check = (lambda value: is_number(value) and value > 0, "a number above 0")
NOT_NEGATIVE: Check = (lambda value: is_number(value) and value >= 0, "a number, at least 0")
PROBABILITY: Check = (is_probability, "a probability from 0 to 1")
TASK: dict[str, Check] = {
    "guided": (is_part, "a fraction of the run such as 1.0, or at least 2 steps"),
    "flip": BOOLEAN,
    "confidence": (optional(lambda value: is_number(value) and -1 <= value <= 1), "a cosine from -1 to 1, or null"),
    "mean_over": one_of("valid", "all"),
    "distillation": NOT_NEGATIVE,
    "cutmix": PROBABILITY,
    "optimizer": one_of("sgd", "adamw"),
    "lr": POSITIVE,
    "weight_decay": NOT_NEGATIVE,
    "power": NOT_NEGATIVE,
    "warmup": (is_part, "a fraction of the run such as 0.05, or 0 or at least 2 steps"),
    "encoder_lr": POSITIVE,
    "decay_all": BOOLEAN,
    "momentum": (optional(lambda value: is_number(value) and 0 <= value < 1), "a number from 0 to below 1, or null"),
}
TEACHER_DEFAULTS = {"flip": False, "confidence": None, "distillation": 0}
"""Settings that only affect the pseudo labels of the teacher, with the values that switch them off."""


def check_task(settings: Mapping[str, Any]) -> None:
    """Raise `InputError` for settings of the task that are invalid or would have no effect."""
    check_settings(settings, TASK, "task.")
    lr, min_lr, momentum, guided = (settings[key] for key in ("lr", "min_lr", "momentum", "guided"))
    require(is_number(min_lr) and 0 <= min_lr <= lr, "task.min_lr", min_lr, f"a number from 0 to task.lr={lr}")
    if settings["optimizer"] == "adamw":
        require(momentum is None, "task.momentum", momentum, "null: task.optimizer=adamw has no momentum")
    if guided != 1.0 and settings["labels"] != "all":
        expected = "0, or task.guided=1.0: in self-training images cannot be labelled before they are mixed"
        require(settings["cutmix"] == 0, "task.cutmix", settings["cutmix"], expected)
    if guided == 0 or settings["labels"] == "all":
        reason = "task.guided=0" if guided == 0 else "data.labels=all"
        for key, off in TEACHER_DEFAULTS.items():
            value = "null" if off is None else str(off).lower()
            require(settings[key] == off, f"task.{key}", settings[key], f"{value}: with {reason} the teacher labels nothing")


def check_finite(loss: Tensor, step: int) -> None:
    """Raise `InputError` for a loss that is infinite or NaN."""
    if not loss.isfinite():
        raise InputError(
            f"the loss is {loss.item()} at step {step}: try a smaller task.lr, trainer.gradient_clip_val=1 or "
            "trainer.precision=32-true; the last checkpoint is from an earlier step"
        )


def is_size_range(value: Any) -> bool:
    """Whether a value is a list of two sides in pixels, the smaller one first."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(is_count(side) for side in value) and value[0] <= value[1]


ANY_RESOLUTION: dict[str, Check] = {
    "window": (optional(is_count), "pixels, at least 1, or null for the size that the tower was trained on"),
    "stride": (optional(is_count), "pixels, at least 1, or null for half a window"),
    "blocks": COUNT,
    "sizes": (is_size_range, "the smallest and the largest side in pixels, such as [224,672]"),
    "lr": TASK["lr"],
}


def check_any_resolution(settings: Mapping[str, Any]) -> None:
    """Raise `InputError` for invalid settings of the task that distils windows into one forward pass."""
    check_settings(settings, ANY_RESOLUTION, "task.")


def check_windows(window: int, stride: int, sizes: Sequence[int], patch: tuple[int, int]) -> None:
    """Raise `InputError` if windows leave gaps or are as large as every crop, or if no size is a multiple of the patch."""
    require(stride <= window, "task.stride", stride, f"at most task.window={window}: windows would leave gaps")
    least, most = sizes
    require(window < most, "task.sizes", list(sizes), f"a largest side above task.window={window}: one window would show every crop")
    fits = all(-(-least // side) <= most // side for side in patch)
    require(fits, "task.sizes", list(sizes), f"a range that contains a multiple of the patch, {max(patch)} pixels")
