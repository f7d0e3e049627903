"""Parameter groups and learning rates of MaskCLIP+."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import NETWORK, make_data, make_task, make_trainer

from maskclip import InputError, MaskCLIP, Student
from maskclip.tasks.optimisation import build_optimizer, parameter_groups, rate_factor, steps_of

SETTINGS: dict[str, Any] = {
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "power": 0.9,
    "min_lr": 1e-4,
    "warmup": 0,
    "encoder_lr": 1.0,
    "decay_all": True,
}


def student(background: bool = False) -> Student:
    torch.manual_seed(0)
    return Student({"names": ["cat", "dog", "sky"], "background": background}, 8, **NETWORK)


def test_a_part_of_a_run_is_a_fraction_or_a_number_of_steps() -> None:
    assert [steps_of(part, max_steps=4) for part in (0.5, 1.0, 0.0, 3, 0)] == [2, 4, 0, 3, 0]


@pytest.mark.parametrize("warmup", [4, 0.4])
def test_rates_rise_linearly_and_fall_as_a_polynomial(warmup: int | float) -> None:
    """Steps 0 to 4 rise to the learning rate, and six steps later a quadratic polynomial is at its minimum."""
    settings = SETTINGS | {"lr": 1.0, "min_lr": 0.1, "power": 2.0, "warmup": warmup}
    factor = rate_factor(settings, 10)
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 0.725, 0.5, 0.325, 0.2, 0.125, 0.1, 0.1]
    assert [factor(step) for step in range(12)] == pytest.approx(expected)


def test_without_warmup_the_first_step_has_the_learning_rate() -> None:
    factor = rate_factor(SETTINGS, 4)
    assert [0.01 * factor(step) for step in (0, 1, 4)] == pytest.approx([0.01, (0.01 - 1e-4) * 0.75**0.9 + 1e-4, 1e-4])


def test_schedules_that_do_not_fit_the_run() -> None:
    with pytest.raises(InputError, match=r"task.warmup=1.0: give less than the whole run, trainer.max_steps=4"):
        rate_factor(SETTINGS | {"warmup": 1.0}, 4)
    with pytest.raises(InputError, match=r"set trainer.max_steps"):
        rate_factor(SETTINGS, -1)


def test_the_defaults_are_one_group_in_the_order_of_the_student() -> None:
    model = student()
    (group,) = parameter_groups(model, SETTINGS)
    assert all(one is other for one, other in zip(group["params"], model.parameters(), strict=True))
    assert (group["lr"], group["weight_decay"]) == (0.01, 5e-4)


def test_the_encoder_has_its_own_rate() -> None:
    model = student(background=True)
    rest, encoder = parameter_groups(model, SETTINGS | {"encoder_lr": 0.1})
    assert (rest["lr"], encoder["lr"]) == (0.01, pytest.approx(0.001))
    assert {id(p) for p in encoder["params"]} == {id(p) for p in model.network.encoder.parameters()}
    assert len(rest["params"]) + len(encoder["params"]) == len(list(model.parameters()))


def test_matrices_and_convolutions_are_decayed() -> None:
    model = student(background=True)
    decayed, exempt = parameter_groups(model, SETTINGS | {"decay_all": False})
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (5e-4, 0.0)
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    weights = {id(layer.weight) for layer in model.modules() if isinstance(layer, layers)}
    assert {id(p) for p in decayed["params"]} == weights and len(exempt["params"]) == len(list(model.parameters())) - len(weights)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_default_step_is_the_plain_optimisers(optimizer: str) -> None:
    """Weights are bit-equal to those of torch's optimiser with the rates of the formula."""
    models, images = (student(), student()), torch.rand(3, 2, 3, 64, 64)
    settings = SETTINGS | {"optimizer": optimizer}
    ours, schedule = build_optimizer(models[0], settings, max_steps=3)
    plain: torch.optim.Optimizer
    if optimizer == "sgd":
        plain = torch.optim.SGD(models[1].parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    else:
        plain = torch.optim.AdamW(models[1].parameters(), 0.01, weight_decay=5e-4)
    for step, image in enumerate(images):
        plain.param_groups[0]["lr"] = 0.01 * ((1 - 0.01) * (1 - step / 3) ** 0.9 + 0.01)
        for model, optimiser in zip(models, (ours, plain), strict=True):
            optimiser.zero_grad()
            model.network(image).square().mean().backward()
            optimiser.step()
        schedule.step()
    assert all(torch.equal(one, other) for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert not torch.equal(next(models[0].parameters()), next(student().parameters()))


def test_an_extended_run_has_the_rates_of_its_own_schedule(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    options = {"encoder_lr": 0.1, "warmup": 2, "decay_all": False, "lr": 0.01, "min_lr": 0.0, "power": 1.0}
    data = make_data(textures_root, tiny.vocabulary)
    short = make_trainer(tmp_path, 4)
    short.fit(make_task(tiny, **options), data)
    short.save_checkpoint(tmp_path / "last.ckpt")
    long = make_trainer(tmp_path, 6)
    task, rates = make_task(tiny, **options), []
    task.on_train_batch_start = lambda *_: rates.append([group["lr"] for group in long.optimizers[0].param_groups])  # type: ignore[method-assign]
    long.fit(task, data, ckpt_path=tmp_path / "last.ckpt")
    decoder, encoder = ([0.01 * (1 - step / 4) * factor for step in (2, 3)] for factor in (1, 0.1))
    assert rates == [pytest.approx([d, e, e, d]) for d, e in zip(decoder, encoder, strict=True)]
