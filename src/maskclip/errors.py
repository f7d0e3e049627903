"""Errors in the input: the exception, the checks of settings that raise it, and the text for settings that changed between two runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST = 60
"""Characters of a value in a message."""


class InputError(ValueError):
    """Invalid input. The message names the file or key, what was expected and what to do. Programs print it and exit with status 2."""

    def __init__(self, message: str) -> None:
        # a DataLoader's worker passes an error on by making another one from its printed traceback
        super().__init__(message.rsplit("InputError: ", 1)[-1].strip() if "Original Traceback" in message else message)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite int or float. A bool is not a number here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is an int, and not below `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_probability(value: Any) -> bool:
    """Whether `value` is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def require(valid: bool, key: str, value: Any, expected: str) -> None:
    """Raise `InputError` with the key, its value and the expected kind of value, unless `valid`."""
    if not valid:
        raise InputError(f"{key}={'null' if value is None else value}: give {expected}")


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ between two mappings. A missing key counts as None."""
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]


def changes(keys: Iterable[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Text that lists the old and new values of `keys`, such as "task.lr was 0.02, is 0.01; seed was 0, is 1"."""
    return "; ".join(f"{key} was {_brief(before.get(key))}, is {_brief(now.get(key))}" for key in keys)


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
