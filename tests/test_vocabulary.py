from __future__ import annotations

import pytest

from maskclip import InputError, Vocabulary


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": []}, "no class names"),
        ({"names": "cat"}, r"one word; give a list, as in classes.names=\[cat\]"),
        ({"names": ["cat", "dog", "cat"]}, "more than once: cat"),
        ({"names": ["cat", " "]}, r"class names \[1\] are empty"),
        ({"names": [str(i) for i in range(255)]}, "255 class names"),
        ({"names": ["cat"], "unseen": ["dog"]}, "classes.unseen mentions dog"),
        ({"names": ["cat"], "prompts": {"dog": ["dog"]}}, "classes.prompts mentions dog"),
        ({"names": ["cat"], "prompts": {"cat": []}}, "no words for cat"),
        ({"names": ["cat"], "prompts": {"cat": ["cat", ""]}}, "no words for cat"),
        ({"names": ["cat", 5]}, "must be words; quote 5"),
        ({"names": ["cat", "dog"], "background": True}, "the first class is 'cat', not 'background'"),
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
    assert vocabulary.unseen_indices == [2]


def test_a_single_word_needs_no_list() -> None:
    assert Vocabulary(["sofa"], prompts={"sofa": "couch"}).words == [["couch"]]


def test_default_colours_are_all_different() -> None:
    assert len(set(Vocabulary([str(i) for i in range(60)]).colours)) == 60
