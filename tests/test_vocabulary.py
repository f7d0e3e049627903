from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from maskclip import InputError, Vocabulary
from maskclip.vocabulary import read_class_file, read_words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": []}, "no class names"),
        ({"names": "cat"}, r"one word; give a list, as in 'classes.names=\[cat\]'"),
        ({"names": ["cat", "dog", "cat"]}, "repeated class names: cat"),
        ({"names": ["cat", " "]}, r"class names \[1\] are empty"),
        ({"names": [str(i) for i in range(65535)]}, "65535 class names: a 16-bit label map"),
        ({"names": ["cat"], "unseen": ["dog"]}, "classes.unseen has dog, not among"),
        ({"names": ["cat"], "prompts": {"dog": ["dog"]}}, "classes.prompts has dog, not among"),
        ({"names": ["cat"], "prompts": {"cat": []}}, "no words for cat"),
        ({"names": ["cat"], "prompts": {"cat": ["cat", ""]}}, "no words for cat"),
        ({"names": ["cat"], "prompts": {"cat": [1984]}}, r"no words for cat, or something that is not a word: \[1984\]"),
        ({"names": ["cat"], "prompts": {"cat": None}}, "no words for cat"),
        ({"names": ["cat", " cat "]}, "blanks around them: ' cat '"),
        ({"names": ["background"], "background": True}, "only class is the background"),
        ({"names": ["cat", 5]}, "must be words; quote 5"),
        ({"names": ["cat", "background"], "background": True}, "'background' is not the first of the class names: cat, background"),
        ({"names": ["cat"], "palette": [], "background": True}, "0 colours for 2 classes"),
        ({"names": ["cat"], "palette": [(0, 0, 700)]}, "three numbers from 0 to 255"),
        ({"names": ["cat"], "palette": [(0, 0, 0), (1, 1, 1)]}, "2 colours for 1 classes"),
    ],
)
def test_bad_words_are_named(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Vocabulary(**settings)


def test_words_leave_out_the_background() -> None:
    vocabulary = Vocabulary(["background", "sofa", "cat"], prompts={"sofa": ["sofa", "couch"]}, background=True, unseen=["cat"])
    assert vocabulary.words == [["sofa", "couch"], ["cat"]]
    assert vocabulary.words_by_class == [[], ["sofa", "couch"], ["cat"]] and len(vocabulary.names) == 3
    assert vocabulary.unseen_indices == [2]


def test_a_missing_background_is_prepended() -> None:
    vocabulary = Vocabulary(["sofa", "cat"], palette=[(1, 2, 3), (4, 5, 6)], background=True, unseen=["cat"])
    assert list(vocabulary.names) == ["background", "sofa", "cat"] and vocabulary.unseen_indices == [2]
    assert vocabulary.colours == ((0, 0, 0), (1, 2, 3), (4, 5, 6))
    grey = Vocabulary(["cat"], palette=[(1, 2, 3)], background=True, background_colour=(9, 9, 9))
    assert grey.colours == ((9, 9, 9), (1, 2, 3))
    assert Vocabulary(["background", "cat"], palette=[(7, 7, 7), (1, 2, 3)], background=True).colours[0] == (7, 7, 7)
    assert replace(vocabulary, unseen=()).names == vocabulary.names


def test_a_class_file_inherits_from_others(tmp_path: Path) -> None:
    (tmp_path / "pets.yaml").write_text("names: [cat, dog]\nbackground: false\nunseen: []\n")
    (tmp_path / "pets3.yaml").write_text("defaults:\n  - pets\n  - _self_\n\nbackground: true\n")
    assert read_class_file(tmp_path / "pets3.yaml") == {"names": ["cat", "dog"], "background": True, "unseen": []}
    with pytest.raises(InputError, match=r"dogs.yaml"):
        read_class_file(tmp_path / "dogs.yaml")


def test_a_background_with_words_is_a_class_like_others() -> None:
    vocabulary = Vocabulary(["background", "cat"], prompts={"background": ["wall", "sky", "grass"]}, background=True)
    assert vocabulary.wordless == 0
    assert vocabulary.words == [["wall", "sky", "grass"], ["cat"]]
    assert vocabulary.rows() == ([0, 1, 2, 3], [3, 1])


def test_rows_of_chosen_classes() -> None:
    vocabulary = Vocabulary(["background", "sofa", "cat", "car"], prompts={"sofa": ["sofa", "couch"]}, background=True)
    assert vocabulary.word_counts == [2, 1, 1]
    assert vocabulary.rows([3, 1]) == ([3, 0, 1], [1, 2])
    with pytest.raises(InputError, match="background has no words"):
        vocabulary.rows([0, 1])


def test_words_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text('# my classes\ncat\n\nsofa, couch , settee\n"salt, pepper", spice\n猫\nit\'s "ours"\n', encoding="utf-8")
    names, prompts = read_words(path)
    assert names == ["cat", "sofa", "salt, pepper", "猫", 'it\'s "ours"']
    assert prompts == {"sofa": ["sofa", "couch", "settee"], "salt, pepper": ["salt, pepper", "spice"]}
    with pytest.raises(InputError, match=r"no file of class names .*nowhere.txt .*'classes.names=\[cat,dog\]'"):
        read_words(tmp_path / "nowhere.txt")
    path.write_text('cat\n"sky\ngrass\n')
    with pytest.raises(InputError, match=r'line 2 of .*words.txt cannot be read .*"sky'):
        read_words(path)
    with pytest.raises(InputError, match=r"cannot read .*\(classes.names\): Is a directory"):
        read_words(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_words_from_a_file_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("cat, 猫\r\nsofa\n".encode(encoding))
    assert read_words(path) == (["cat", "sofa"], {"cat": ["cat", "猫"]})


@pytest.mark.parametrize(
    ("encoding", "why"), [("latin1", "byte 3 is not UTF-8"), ("utf-16-le", "it contains zero bytes"), ("utf-16", "UTF-16")]
)
def test_other_encodings_are_named(tmp_path: Path, encoding: str, why: str) -> None:
    path = tmp_path / "my words.txt"
    path.write_bytes("café\n".encode(encoding)[: -1 if encoding == "utf-16" else None])
    with pytest.raises(InputError, match=rf"my words.txt \(classes.names\) is not a text file .*{why}.*iconv .*'{path}'"):
        read_words(path)


def test_a_single_word_needs_no_list() -> None:
    assert Vocabulary(["sofa"], prompts={"sofa": "old couch"}).words == [["old couch"]]
    assert Vocabulary(["sofa"], prompts={"sofa": ["couch", "sofa", "couch"]}).words == [["couch", "sofa"]]


def test_time_is_linear_in_the_number_of_names() -> None:
    """60,000 names with prompts and unseen classes: quadratic code takes minutes."""
    names = [f"word {number}" for number in range(60_000)]
    start = time.perf_counter()
    vocabulary = Vocabulary(names, prompts={name: [name, f"a {name}"] for name in names}, unseen=names[30_000:])
    assert vocabulary.unseen_indices == list(range(30_000, 60_000))
    assert vocabulary.rows([59_999]) == ([119_998, 119_999], [2])
    with pytest.raises(InputError, match=r"repeated class names: word 7$"):
        Vocabulary([*names, "word 7"])
    assert time.perf_counter() - start < 10


def test_default_colours_are_all_different() -> None:
    assert len(set(Vocabulary([str(i) for i in range(60)]).colours)) == 60
