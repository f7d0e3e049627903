"""Settings that two runs recorded: in which they differ, for an error message."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST = 60
"""Characters of a value in a message."""


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys of either mapping with another value, or none, in the other one."""
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]


def changes(keys: Iterable[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The values of some keys in both mappings: "task.lr was 0.02, is 0.01; seed was 0, is 1"."""
    return "; ".join(f"{key} was {_brief(before.get(key))}, is {_brief(now.get(key))}" for key in keys)


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
