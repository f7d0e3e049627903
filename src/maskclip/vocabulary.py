"""The vocabulary of a segmentation: class names, the words of each class, colours and unseen classes."""

from __future__ import annotations

import colorsys
import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from maskclip.errors import InputError, require
from maskclip.files import read_text
from maskclip.functional import ignore_index

BACKGROUND = "background"
MOST_CLASSES = 65534  # the values of 16 bits without those of ignored and of unlabelled pixels
Palette = tuple[tuple[int, int, int], ...]


def _default_palette(count: int) -> Palette:
    """Colours that differ strongly in hue (golden-angle steps), for classes without a palette."""
    colours = (colorsys.hsv_to_rgb((0.1 + 0.618034 * i) % 1, (0.75, 0.5, 0.9)[i % 3], (0.9, 0.95, 0.65)[i % 3]) for i in range(count))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours)


@dataclass(frozen=True)
class Vocabulary:
    """Class names in index order, and the words, colours and role of each class.

    `names`: class names. With `background`, class 0 is the background; the name "background" is prepended if it is missing.
    `prompts`: the words of a class that are put into the templates, where they differ from its name: one word or a list of synonyms.
    `palette`: one RGB colour (0..255) for each class; None chooses colours. A prepended background has `background_colour`.
    `unseen`: names of the classes without labels in the zero-shot setting.

    A background without `prompts` has no words: only a student or a threshold can predict it.
    Raises `InputError` for invalid or inconsistent values.
    """

    names: Sequence[str]
    prompts: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    palette: Sequence[Sequence[int]] | None = None
    unseen: Sequence[str] = ()
    background: bool = False
    background_colour: Sequence[int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise InputError(f"classes.names is one word; give a list, as in 'classes.names=[{self.names}]'")
        if not self.names:
            raise InputError("no class names: give a list of words, such as 'classes.names=[cat,grass,sky]'")
        if not_text := [name for name in self.names if not isinstance(name, str)]:
            raise InputError(f"class names must be words; quote {', '.join(map(str, not_text))}")
        require(isinstance(self.background, bool), "classes.background", self.background, "true or false")
        if self.background:
            self._prepend_background()
        if empty := [i for i, name in enumerate(self.names) if not name.strip()]:
            raise InputError(f"class names {empty} are empty (counted from 0)")
        if padded := [name for name in self.names if name != name.strip()]:
            raise InputError(f"class names with blanks around them: {', '.join(map(repr, padded))}")
        if len(self.names) > MOST_CLASSES:
            raise InputError(f"{len(self.names)} class names: a 16-bit label map holds at most {MOST_CLASSES}")
        counts = Counter(self.names)
        if repeated := sorted(name for name, count in counts.items() if count > 1):
            raise InputError(f"repeated class names: {', '.join(repeated)}")
        for key, mentioned in (("prompts", self.prompts), ("unseen", self.unseen)):
            if unknown := [name for name in mentioned if name not in counts]:
                raise InputError(f"classes.{key} has {', '.join(unknown)}, not among the class names: {', '.join(self.names)}")
        for name, prompts in self.prompts.items():
            words = [prompts] if isinstance(prompts, str) else list(prompts or ())
            if not words or not all(isinstance(word, str) and word.strip() for word in words):
                raise InputError(f"classes.prompts has no words for {name}, or something that is not a word: {prompts!r}")
        if not self.words:
            raise InputError("the only class is the background: name another class, or give the background words (classes.prompts)")
        if self.palette is not None and len(self.palette) != len(self.names):
            raise InputError(f"the palette has {len(self.palette)} colours for {len(self.names)} classes")
        if any(len(colour) != 3 or not all(0 <= part <= 255 for part in colour) for colour in self.palette or ()):
            raise InputError("a colour of classes.palette is three numbers from 0 to 255")

    def _prepend_background(self) -> None:
        """Make the background class 0, and give it a colour if the palette has one for each of the other classes only."""
        if BACKGROUND in self.names[1:]:
            raise InputError(f"classes.background=true, but 'background' is not the first of the class names: {', '.join(self.names)}")
        if self.names[0] != BACKGROUND:
            object.__setattr__(self, "names", [BACKGROUND, *self.names])
        if self.palette is not None and len(self.palette) == len(self.names) - 1:
            object.__setattr__(self, "palette", [self.background_colour, *self.palette])

    @classmethod
    def of(cls, classes: Vocabulary | Sequence[str]) -> Vocabulary:
        """The vocabulary itself, or one made from a list of class names."""
        return classes if isinstance(classes, Vocabulary) else cls(classes)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def wordless(self) -> int:
        """The number of classes without words: 1 with a background that has no prompts, otherwise 0."""
        return int(self.background and self.names[0] not in self.prompts)

    @property
    def words(self) -> list[list[str]]:
        """The words of each class that has any, in index order, without repetitions."""
        prompts = [self.prompts.get(name, name) for name in self.names[self.wordless :]]
        return [[words] if isinstance(words, str) else list(dict.fromkeys(words)) for words in prompts]

    @property
    def words_by_class(self) -> list[list[str]]:
        """The words of every class in index order, without repetitions; an empty list for a class without words."""
        return [[] for _ in range(self.wordless)] + self.words

    @property
    def word_counts(self) -> list[int]:
        """The number of words of each class that has any."""
        return [len(words) for words in self.words]

    @property
    def logit_counts(self) -> list[int]:
        """The number of logits of each class where every word has a logit: `word_counts`, and 1 for a class without words."""
        return [1] * self.wordless + self.word_counts

    def rows(self, classes: Iterable[int] | None = None) -> tuple[list[int], list[int]]:
        """The indices of the words of `classes` among all words, class by class, and the number of words of each class.

        None means all classes that have words. Raises `InputError` for a class without words.
        """
        counts = self.word_counts
        ends = list(accumulate(counts, initial=0))
        chosen = list(range(len(counts)) if classes is None else (index - self.wordless for index in classes))
        if any(index < 0 for index in chosen):
            raise InputError("the background has no words, so MaskCLIP cannot score it: give it words (classes.prompts)")
        return [row for index in chosen for row in range(ends[index], ends[index + 1])], [counts[index] for index in chosen]

    @property
    def ignore_index(self) -> int:
        """The label of ignored pixels: 255, or 65535 for more than 254 classes."""
        return ignore_index(len(self))

    @property
    def unseen_indices(self) -> list[int]:
        """The indices of the unseen classes, in the order of `unseen`."""
        index = {name: number for number, name in enumerate(self.names)}
        return [index[name] for name in self.unseen]

    @property
    def colours(self) -> Palette:
        """One RGB colour (0..255) for each class."""
        if self.palette is None:
            return _default_palette(len(self.names))
        return tuple((int(r), int(g), int(b)) for r, g, b in self.palette)


def read_class_file(path: Path) -> dict[str, Any]:
    """The arguments of a `Vocabulary` from a file of conf/classes, after those of the files that its `defaults` list names."""
    content = yaml.safe_load(read_text(path, "classes"))
    inherited: dict[str, Any] = {}
    for parent in content.pop("defaults", []):
        if parent != "_self_":
            inherited |= read_class_file(path.with_name(f"{parent}.yaml"))
    return inherited | content


def read_words(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Class names and their words from a text file with one class a line: its name, then further words after commas.

    The name is a word too. Double quotes enclose a word that contains a comma. Empty lines and lines that begin with #
    are skipped. Raises `InputError` if the file is missing or not text.
    """
    if not path.exists():
        raise InputError(f"no file of class names {path} (classes.names); for words themselves give a list: 'classes.names=[cat,dog]'")
    text = read_text(path, "classes.names")
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                (row,) = csv.reader([line], skipinitialspace=True, strict=True)
            except csv.Error as cause:
                raise InputError(f"line {number} of {path} cannot be read ({cause}): {line.strip()}") from cause
            rows.append([word.strip() for word in row if word.strip()])
    return [row[0] for row in rows if row], {row[0]: row for row in rows if len(row) > 1}
