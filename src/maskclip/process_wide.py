"""Temporary changes of process-wide settings that several threads may make at once."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class SettingOverride(Generic[T]):
    """Context manager that sets a process-wide setting to `value` while at least one thread is inside.

    `read` returns the setting and `write` changes it. The last thread to leave restores the value from before the first one
    entered, unless other code has changed the setting in the meantime.
    """

    def __init__(self, read: Callable[[], T], write: Callable[[T], None], value: T) -> None:
        self._read, self._write, self._value = read, write, value
        self._lock, self._inside = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = self._read()
                self._write(self._value)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._read() == self._value:
                self._write(self._before)
