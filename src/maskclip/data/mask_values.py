"""From the values in mask files to class indices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from maskclip.errors import InputError, is_count
from maskclip.functional import IGNORE_INDEX, ignore_index


class MaskValues:
    """The meaning of the values in mask files: a class, or ignored.

    `reduce_zero_label`: value 0 is ignored and value v is class v - 1, as in ADE20K. `ignore`: other values that
    are ignored, such as [11] for CamVid's void. 255 is always ignored (65535 with more than 254 classes).
    Raises `InputError` if `ignore` is not a list of values.
    """

    def __init__(self, class_names: Sequence[str], reduce_zero_label: bool = False, ignore: Sequence[int] = ()) -> None:
        if isinstance(ignore, str) or not isinstance(ignore, Sequence) or not all(is_count(value, least=0) for value in ignore):
            raise InputError(f"data.ignore={ignore}: expected a list of values in mask files, such as 'data.ignore=[11]'")
        self.class_names, self.reduce_zero_label = class_names, reduce_zero_label
        self.first = int(reduce_zero_label)
        self.ignore_index = ignore_index(len(class_names))
        self.dtype: type[np.unsignedinteger] = np.uint8 if self.ignore_index == IGNORE_INDEX else np.uint16
        self.ignored = {self.ignore_index, *ignore} | ({0} if reduce_zero_label else set())
        table = np.full(max(256, self.first + len(class_names) + 1), self.ignore_index, dtype=self.dtype)
        table[self.first : self.first + len(class_names)] = np.arange(len(class_names))
        table[[value for value in self.ignored if value < len(table)]] = self.ignore_index
        self._table = table

    @property
    def ignored_text(self) -> str:
        """The ignored values, for messages."""
        return ", ".join(map(str, sorted(self.ignored)))

    def unknown(self, values: Iterable[int]) -> list[int]:
        """Those of `values` that are neither a class nor ignored."""
        return [value for value in values if not (0 <= value - self.first < len(self.class_names) or value in self.ignored)]

    def meaning(self, value: int) -> str:
        """The class name of a value, "ignored" or "unknown"."""
        if value in self.ignored:
            return "ignored"
        return "unknown" if self.unknown([value]) else self.class_names[value - self.first]

    def to_classes(self, stored: np.ndarray, hide: Sequence[int], hidden: int) -> np.ndarray:
        """Class indices (H, W), uint8 or uint16, of known stored values; `hidden` for the classes in `hide`."""
        table = self._table.copy()
        table[np.isin(table, np.asarray(hide, dtype=np.int64))] = hidden
        if stored.dtype == np.uint8 and self.dtype is np.uint8:
            return cv2.LUT(stored, table)  # ten times as fast as numpy, but for bytes only
        return table[np.minimum(stored, len(table) - 1)]  # the last entry is ignored

    def advice(self, unknown: Sequence[int], present: Iterable[int]) -> str:
        """What to do about `unknown` values if the masks have the values `present`: each remedy with its meaning."""
        names, count = self.class_names, len(self.class_names)
        ignore = f"ignore them: 'data.ignore=[{','.join(map(str, unknown))}]'" if len(unknown) <= 20 else "list them all in data.ignore"
        remedy = f"If they mark pixels without a label, {ignore}, and value {self.first} stays {names[0]}"
        if 0 in present and list(unknown) == [count] and not self.reduce_zero_label:
            remedy += (
                f". If 0 marks pixels without a label and classes start at 1, use data.reduce_zero_label=true: value 0 is "
                f"ignored, value 1 is {names[0]}, value {count} is {names[-1]}"
            )
        else:
            remedy += ". If they are classes, add their names (classes)"
        return f"{remedy}. scripts/inspect_data.py lists every value with its class."
