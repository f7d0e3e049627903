"""What a setting may be; in Python a bool is an int, which no user means."""

from __future__ import annotations

from typing import Any


def is_number(value: Any) -> bool:
    """Whether it is an int or a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is an int, and not below `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
