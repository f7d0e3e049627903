"""The optimiser of MaskCLIP+ and its learning rates: a linear warm-up, then a polynomial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from maskclip.errors import InputError, require
from maskclip.models.student import Student


def steps_of(part: int | float, max_steps: int) -> int:
    """The number of optimiser steps of a part of a run: an int is that number, a float a fraction of `max_steps`."""
    return round(part * max_steps) if isinstance(part, float) else part


def build_optimizer(student: Student, settings: Mapping[str, Any], max_steps: int) -> tuple[Optimizer, LambdaLR]:
    """The optimiser of a student and the schedule of its learning rates over `max_steps` steps.

    `settings`: the arguments of `MaskCLIPPlus`. Raises `InputError` if the number of steps is unknown or the warm-up is too long.
    """
    factor, groups = rate_factor(settings, max_steps), parameter_groups(student, settings)
    optimizer: Optimizer
    if settings["optimizer"] == "sgd":
        optimizer = SGD(groups, settings["lr"], momentum=settings["momentum"])
    else:
        optimizer = AdamW(groups, settings["lr"])
    return optimizer, LambdaLR(optimizer, factor)


def parameter_groups(student: Student, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay, in the order of the student; the decoder's weights are in the first group.

    The encoder learns at `encoder_lr` times the learning rate. Without `decay_all`, vectors (biases, norms), class tokens and
    position embeddings have no weight decay.
    """
    lr, weight_decay = settings["lr"], settings["weight_decay"]
    exempt = set[str]() if settings["decay_all"] else without_decay(student)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(lr, weight_decay): []}
    for name, parameter in student.named_parameters():
        factor = settings["encoder_lr"] if name.startswith("network.encoder.") else 1.0
        groups.setdefault((lr * factor, 0.0 if name in exempt else weight_decay), []).append(parameter)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]


def without_decay(model: nn.Module) -> set[str]:
    """The names of parameters that are usually not decayed: vectors, and those that timm's encoders list in `no_weight_decay`."""
    names = {name for name, parameter in model.named_parameters() if parameter.squeeze().ndim <= 1}
    for prefix, module in model.named_modules():
        if hasattr(module, "no_weight_decay"):
            names |= {f"{prefix}.{name}" for name in module.no_weight_decay()}
    return names


def rate_factor(settings: Mapping[str, Any], max_steps: int) -> Callable[[int], float]:
    """The factor on the initial learning rates as a function of the step.

    It rises linearly to 1 during the warm-up and then falls to `min_lr / lr` as a polynomial of degree `power`.
    """
    if max_steps < 1:
        raise InputError("set trainer.max_steps: the learning rate and the phases depend on the number of steps")
    warmup, floor = steps_of(settings["warmup"], max_steps), settings["min_lr"] / settings["lr"]
    require(warmup < max_steps, "task.warmup", settings["warmup"], f"less than the whole run, trainer.max_steps={max_steps}")
    steps = max_steps - warmup

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return (1 - floor) * (1 - min(step - warmup, steps) / steps) ** settings["power"] + floor

    return factor
