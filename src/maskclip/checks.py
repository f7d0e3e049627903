"""What a setting may be; in Python a bool is an int, which no user means."""

from __future__ import annotations

import math
from typing import Any

from maskclip.errors import InputError


def is_number(value: Any) -> bool:
    """Whether it is an int or a float, and finite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is an int, and not below `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_probability(value: Any) -> bool:
    """Whether it is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def require(valid: bool, key: str, value: Any, expected: str) -> None:
    """Raise `InputError` with the key, its value and what was expected, unless `valid`."""
    if not valid:
        raise InputError(f"{key}={'null' if value is None else value}: give {expected}")
