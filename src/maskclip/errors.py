"""`InputError`, the exception for problems that the user can fix, and the checks of settings that raise it.

Programs print its message without a traceback and exit.
"""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

LONGEST = 60
"""Longer values are shortened in messages."""


class InputError(ValueError):
    """A setting or a file is missing, invalid or does not fit.

    The message names the file or key, the value, what was expected and how to fix it.
    """

    def __init__(self, message: str) -> None:
        # a DataLoader re-raises the error of a worker with the worker's whole traceback as the message
        super().__init__(message.rsplit("InputError: ", 1)[-1].strip() if "Original Traceback" in message else message)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite int or float (not a bool)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether `value` is an int (not a bool), at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_probability(value: Any) -> bool:
    """Whether `value` is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def require(valid: bool, key: str, value: Any, expected: str) -> None:
    """Raise `InputError` unless `valid`: "key=value: give `expected`"."""
    if not valid:
        raise InputError(f"{key}={'null' if value is None else value}: give {expected}")


Check = tuple[Callable[[Any], bool], str]
"""A predicate for the value of a setting, and the expected value in words."""


def is_boolean(value: Any) -> bool:
    """Whether the value is True or False, not a string such as "no"."""
    return isinstance(value, bool)


def optional(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A predicate that accepts None as well."""
    return lambda value: value is None or is_valid(value)


def one_of(*choices: str) -> Check:
    """A check for one of several names."""
    return (lambda value: value in choices), alternatives(choices)


def alternatives(names: Sequence[str]) -> str:
    """Join names for a message: "a", "a or b", "a, b or c"."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


BOOLEAN: Check = (is_boolean, "true or false")
COUNT: Check = (is_count, "a whole number, at least 1")


def check_settings(settings: Mapping[str, Any], checks: Mapping[str, Check], prefix: str = "") -> None:
    """Raise `InputError` for the first invalid setting, with its key after `prefix`, its value and what was expected."""
    for key, (is_valid, expected) in checks.items():
        require(is_valid(settings[key]), f"{prefix}{key}", settings[key], expected)


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ between two mappings; a missing key counts as None."""
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]


def changes(keys: Iterable[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe changed values for a message: "task.lr was 0.02, is 0.01; seed was 0, is 1"."""
    return "; ".join(f"{key} was {_brief(before.get(key))}, is {_brief(now.get(key))}" for key in keys)


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def is_full(error: OSError) -> bool:
    """Whether the disk or the user's share of it is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def sentence(error: BaseException) -> str | None:
    """What is wrong and what to do, as a sentence for the end of a program; None for errors of the program itself."""
    if isinstance(error, OSError) and is_full(error):
        return f"the disk is full{f', at {error.filename}' if error.filename else ''}: free some space and run again"
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return (
            "a process that reads images was killed; it may have run out of memory: use fewer, num_workers=0 in src/segment.py and "
            f"data.num_workers=0 in the other programs ({error})"
        )
    return str(error) if isinstance(error, (InputError, OSError)) else None


def run_script(main: Callable[[], None]) -> None:
    """Run the `main` of a script. Errors that the user can fix are printed without a traceback, and the exit status is 2."""
    try:
        main()
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = sentence(error)
        if message is None:
            raise
        print(f"\nerror: {message}", file=sys.stderr)  # below a progress bar
        sys.exit(2)
