"""Process-wide settings when threads enter and leave in any order, and when the user has set them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from maskclip import Protocol, predict
from maskclip.clip import loading
from maskclip.inference import precision
from maskclip.models.maskclip import MaskCLIP
from maskclip.process_wide import Held

NEW_API = pytest.mark.skipif(not precision.FP32_PRECISION, reason="torch before 2.9")


def new_api() -> list[tuple[Any, str]]:
    """Objects whose `fp32_precision` a user may set, with a value for each."""
    if not precision.FP32_PRECISION:
        return []
    backends: Any = torch.backends
    return [(backends, "tf32"), (backends.cuda.matmul, "tf32"), (backends.cudnn, "tf32"), (backends.mkldnn.matmul, "bf16")]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    yield
    for switch, _ in reversed(new_api()):
        switch.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")


def state() -> tuple[object, ...]:
    levels = tuple(logger.level for logger in loading.LOGGERS)
    return levels, tuple(switch.fp32_precision for switch, _ in new_api()) or torch.get_float32_matmul_precision()


@pytest.mark.parametrize("held", [precision.FULL_PRECISION, loading.QUIET], ids=["products", "loggers"])
def test_the_last_to_leave_restores_what_the_first_found(held: Held[Any]) -> None:
    torch.set_float32_matmul_precision("high")
    logging.getLogger().setLevel(logging.INFO)
    before = state()
    held.__enter__()  # one thread
    held.__enter__()  # another one, which leaves after the first
    inside = state()
    assert inside != before
    held.__exit__()
    assert state() == inside
    held.__exit__()
    assert state() == before
    logging.getLogger().setLevel(logging.WARNING)


def test_threads_predict_what_one_thread_predicts_and_leave_no_switch_changed(tiny: MaskCLIP) -> None:
    torch.set_float32_matmul_precision("high")
    before, fast = state(), torch.backends.mha.get_fastpath_enabled()
    images = [torch.rand(3, 8 * rows, 8 * columns) for rows, columns in ((12, 12), (5, 20), (9, 7), (20, 3))]
    expected = [predict(tiny, [image])[0].labels for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: predict(tiny, [images[number % 4]])[0].labels, range(40)))
    assert all(torch.equal(labels, expected[number % 4]) for number, labels in enumerate(found))
    assert state() == before and torch.backends.mha.get_fastpath_enabled() == fast


def test_what_somebody_else_sets_meanwhile_stays() -> None:
    setting = ["theirs"]
    held = Held(lambda: setting[0], lambda value: setting.__setitem__(0, value), "ours")
    with pytest.raises(ZeroDivisionError), held:
        1 / 0  # noqa: B018
    assert setting == ["theirs"]
    with held:
        setting[0] = "new"
    assert setting == ["new"]


@NEW_API
@pytest.mark.parametrize("number", range(4))
def test_predictions_after_the_user_has_set_the_precision_of_products(tiny: MaskCLIP, number: int) -> None:
    image = torch.rand(3, 64, 96)
    expected = predict(tiny, [image], Protocol(), ("confidence",))[0]
    switch, value = new_api()[number]
    switch.fp32_precision = value
    before = state()
    found = predict(tiny, [image], Protocol(), ("confidence",))[0]
    assert state() == before
    assert (found.labels == expected.labels).float().mean() > 0.99


@NEW_API
def test_what_was_inherited_is_inherited_again() -> None:
    backends: Any = torch.backends
    backends.fp32_precision = "tf32"
    with precision.FULL_PRECISION:
        assert backends.cuda.matmul.fp32_precision == backends.mkldnn.matmul.fp32_precision == "ieee"
    backends.fp32_precision = "ieee"
    assert backends.cuda.matmul.fp32_precision == backends.mkldnn.matmul.fp32_precision == "ieee"


def test_torch_before_2_9(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "FP32_PRECISION", [])
    held = Held(precision._matmul_precision, precision._set_matmul_precision, ("highest",))
    torch.set_float32_matmul_precision("medium")
    with held:
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "medium"
