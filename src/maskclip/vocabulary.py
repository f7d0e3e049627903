"""The words of a segmentation: class names, what the text tower reads for each, colours, and which are unseen."""

from __future__ import annotations

import colorsys
import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from maskclip.errors import InputError, require
from maskclip.files import read_text
from maskclip.functional import ignore_index

MOST_CLASSES = 65534  # 16 bits, less what is ignored and what is unlabelled
Palette = tuple[tuple[int, int, int], ...]


def _default_palette(count: int) -> Palette:
    """Colours far apart in hue for a list of classes that has none of its own (golden-angle steps)."""
    colours = (colorsys.hsv_to_rgb((0.1 + 0.618034 * i) % 1, (0.75, 0.5, 0.9)[i % 3], (0.9, 0.95, 0.65)[i % 3]) for i in range(count))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours)


@dataclass(frozen=True)
class Vocabulary:
    """Class names in index order and what belongs to each.

    `prompts` maps a class name to the words that are put into the sentences where they differ from the name (a word, or
    several that are synonyms). `unseen` names the classes without labels in the zero-shot setting. With `background`,
    class 0 is the background: unless `prompts` gives it words, it has none, and only a student or a threshold can tell it.
    Raises `InputError` if anything does not fit.
    """

    names: Sequence[str]
    prompts: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    palette: Sequence[Sequence[int]] | None = None
    unseen: Sequence[str] = ()
    background: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise InputError(f"classes.names is one word; give a list, as in 'classes.names=[{self.names}]'")
        if not self.names:
            raise InputError("no class names: give a list of words, such as 'classes.names=[cat,grass,sky]'")
        if strangers := [name for name in self.names if not isinstance(name, str)]:
            raise InputError(f"class names must be words; quote {', '.join(map(str, strangers))}")
        if blank := [i for i, name in enumerate(self.names) if not str(name).strip()]:
            raise InputError(f"class names {blank} are empty (counted from 0)")
        if padded := [name for name in self.names if name != name.strip()]:
            raise InputError(f"class names with blanks around them: {', '.join(map(repr, padded))}")
        if len(self.names) > MOST_CLASSES:
            raise InputError(f"{len(self.names)} class names: a 16-bit label map holds at most {MOST_CLASSES}")
        counts = Counter(self.names)
        if repeated := sorted(name for name, count in counts.items() if count > 1):
            raise InputError(f"class names given more than once: {', '.join(repeated)}")
        for key, mentioned in (("prompts", self.prompts), ("unseen", self.unseen)):
            if unknown := [name for name in mentioned if name not in counts]:
                raise InputError(f"classes.{key} mentions {', '.join(unknown)}, not among the class names: {', '.join(self.names)}")
        for name, given in self.prompts.items():
            words = [given] if isinstance(given, str) else list(given or ())
            if not words or not all(isinstance(word, str) and word.strip() for word in words):
                raise InputError(f"classes.prompts has no words for {name}, or something that is not a word: {given!r}")
        require(isinstance(self.background, bool), "classes.background", self.background, "true or false")
        if self.background and self.names[0] != "background":
            raise InputError(f"classes.background=true, but the first class is {self.names[0]!r}, not 'background'")
        if not self.words:
            raise InputError("the background alone leaves nothing to look for: name a class besides, or give it words (classes.prompts)")
        if self.palette is not None and len(self.palette) != len(self.names):
            raise InputError(f"the palette has {len(self.palette)} colours for {len(self.names)} classes")

        if any(len(colour) != 3 or not all(0 <= part <= 255 for part in colour) for colour in self.palette or ()):
            raise InputError("a colour of classes.palette is three numbers from 0 to 255")

    @classmethod
    def of(cls, classes: Vocabulary | Sequence[str]) -> Vocabulary:
        """A vocabulary from a plain list of words, or the vocabulary itself."""
        return classes if isinstance(classes, Vocabulary) else cls(classes)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def wordless(self) -> int:
        """How many classes have no words: 1 with a background that has none, else 0."""
        return int(self.background and self.names[0] not in self.prompts)

    @property
    def words(self) -> list[list[str]]:
        """What the text tower reads for each class that has words (all but a background without)."""
        given = [self.prompts.get(name, name) for name in self.names[self.wordless :]]
        return [[words] if isinstance(words, str) else list(dict.fromkeys(words)) for words in given]

    @property
    def word_counts(self) -> list[int]:
        """How many words each class has, of those that have any."""
        return [len(words) for words in self.words]

    @property
    def logit_counts(self) -> list[int]:
        """How many logits each class has where every word has one: those of `word_counts`, one for a class without words."""
        return [1] * self.wordless + self.word_counts

    def rows(self, classes: Iterable[int] | None = None) -> tuple[list[int], list[int]]:
        """Where the words of some classes stand among all words, class by class, and how many each class has.

        None is all classes that have words. Raises `InputError` for a class without words.
        """
        counts = self.word_counts
        ends = list(accumulate(counts, initial=0))
        chosen = list(range(len(counts)) if classes is None else (index - self.wordless for index in classes))
        if any(index < 0 for index in chosen):
            raise InputError("the background has no words that MaskCLIP could look for")
        return [row for index in chosen for row in range(ends[index], ends[index + 1])], [counts[index] for index in chosen]

    @property
    def ignore_index(self) -> int:
        """The label of pixels that are not looked at: 255, or 65535 where there are more than 254 classes."""
        return ignore_index(len(self))

    @property
    def unseen_indices(self) -> list[int]:
        index = {name: number for number, name in enumerate(self.names)}
        return [index[name] for name in self.unseen]

    @property
    def colours(self) -> Palette:
        """One RGB colour (0..255) for each class."""
        if self.palette is None:
            return _default_palette(len(self.names))
        return tuple((int(r), int(g), int(b)) for r, g, b in self.palette)


def read_words(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Class names and their words from a text file: one class a line, its name first, further words behind commas.

    The name is a word too. A word that holds a comma stands in double quotes; empty lines and lines that begin with #
    are skipped. Raises `InputError` if the file is not there or not text.
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
