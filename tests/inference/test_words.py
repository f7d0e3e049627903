"""The words that other methods give the classes: what is stored, who selects it, and what a background with words changes."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from omegaconf import DictConfig, OmegaConf

from maskclip import InputError, MaskCLIP, Protocol, Vocabulary, predict
from maskclip.inference.predict import rule_of
from maskclip.programs.config import plain, words_of
from maskclip.textures.scenes import draw_scene
from maskclip.vocabulary import read_class_file

CONF = ROOT / "conf"
LISTS = ("voc21", "voc20", "context59", "context60", "coco_object", "coco_stuff171", "cityscapes19", "ade150")
DATA = {"coco_stuff171": "coco_stuff", "cityscapes19": "cityscapes", "ade150": "ade20k"}
# The lists of configs/cls_*.txt by name, each class a list of words, as JSON with sorted keys; the start of its SHA-256.
# NACLIP's lists are SCLIP's.
DIGESTS = {
    "sclip": "09d32900aa657893",
    "naclip": "09d32900aa657893",
    "clearclip": "28308878d7bf475d",
    "proxyclip": "e217b6fd6892b5b2",
}


def vocabulary(cfg: DictConfig) -> Vocabulary:
    return Vocabulary(**words_of(cfg))


@pytest.mark.parametrize("name", DIGESTS)
def test_the_words_are_those_of_the_repositories(name: str, compose_cfg: Callable[..., DictConfig]) -> None:
    tables = plain(compose_cfg("embed", f"words={name}").words.tables)
    lists = {key: [[words] if isinstance(words, str) else words for words in table.values()] for key, table in tables.items()}
    assert set(lists) == set(LISTS)
    assert hashlib.sha256(json.dumps(lists, sort_keys=True).encode()).hexdigest()[:16] == DIGESTS[name]


@pytest.mark.parametrize("classes", LISTS)
@pytest.mark.parametrize("name", DIGESTS)
def test_every_table_gives_words_to_exactly_the_classes_of_its_list(
    name: str, classes: str, compose_cfg: Callable[..., DictConfig]
) -> None:
    cfg = compose_cfg("eval", f"data={DATA.get(classes, classes)}", f"words={name}")
    expected = plain(cfg.words.tables[classes])
    assert list(expected) == list(Vocabulary(**read_class_file(CONF / "classes" / f"{classes}.yaml")).names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = vocabulary(cfg)
    assert found.wordless == 0 and found.words == [[words] if isinstance(words, str) else words for words in expected.values()]


@pytest.mark.parametrize(
    ("program", "overrides", "name", "background"),
    [
        ("eval", ["data=voc21"], "own", []),
        ("eval", ["data=voc21", "protocol=sclip"], "sclip", ["sky", "wall"]),
        ("eval", ["protocol=sclip", "data=voc21"], "sclip", ["sky", "wall"]),
        ("eval", ["data=voc21", "protocol=sclip", "words=own"], "own", []),
        ("eval", ["data=voc21", "words=own", "protocol=sclip"], "own", []),
        ("eval", ["data=voc21", "protocol=naclip", "words=clearclip"], "clearclip", ["background"]),
        ("eval", ["data=voc21", "protocol=tcl"], "own", []),
        ("eval", ["data=voc21", "words=proxyclip"], "proxyclip", ["sky", "wall"]),
        ("segment", ["classes=voc21"], "own", []),
        ("segment", ["classes=voc21", "protocol=clearclip"], "clearclip", ["background"]),
        ("segment", ["classes=voc21", "protocol=clearclip", "words=own"], "own", []),
        ("embed", ["classes=voc21", "words=sclip"], "sclip", ["sky", "wall"]),
        ("train", ["experiment=voc21_zero_shot"], "own", []),
        ("train", ["experiment=voc21_zero_shot", "protocol=proxyclip"], "proxyclip", ["sky", "wall"]),
        ("train", ["experiment=voc21_zero_shot", "protocol=proxyclip", "words=own"], "own", []),
    ],
)
def test_presets_choose_their_words_and_the_command_line_overrides_them(
    program: str, overrides: list[str], name: str, background: list[str], compose_cfg: Callable[..., DictConfig]
) -> None:
    cfg = compose_cfg(program, *overrides)
    assert cfg.words.name == name
    found = vocabulary(cfg)
    assert found.wordless == (not background)
    assert not background or found.words[0][: len(background)] == background


@pytest.mark.parametrize(
    ("program", "overrides"),
    [
        ("eval", ["data=textures", "protocol=sclip"]),
        ("eval", ["data=context459", "protocol=proxyclip"]),
        ("segment", ["protocol=naclip", "classes.names=[cat,grass]"]),
    ],
)
def test_classes_without_a_table_keep_their_words_and_it_is_said(
    program: str, overrides: list[str], compose_cfg: Callable[..., DictConfig]
) -> None:
    cfg = compose_cfg(program, *overrides)
    with pytest.warns(UserWarning, match=f"words={cfg.words.name} has no table for these classes"):
        assert vocabulary(cfg) == Vocabulary(**plain(cfg.classes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocabulary(compose_cfg(program, *overrides, "words=own"))


@pytest.mark.parametrize(
    ("program", "overrides", "boat"),
    [
        ("eval", ["data=voc21", "++classes.prompts.boat=[canoe]"], ["canoe"]),
        ("eval", ["data=voc21", "++classes.prompts.boat=canoe"], ["canoe"]),
        ("train", ["experiment=voc21_zero_shot", "++classes.prompts.boat=[boat]"], ["boat"]),
        ("segment", ["classes=voc21", "classes.names={tmp_path}/classes.txt"], ["boat", "canoe"]),
    ],
)
def test_words_of_the_user_are_never_replaced(
    program: str, overrides: list[str], boat: list[str], compose_cfg: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """A table that applies to the classes is an error, and words=own keeps the words."""
    names = OmegaConf.load(CONF / "classes" / "voc21.yaml").names
    (tmp_path / "classes.txt").write_text("\n".join(names).replace("boat", "boat, canoe"))
    overrides = [override.format(tmp_path=tmp_path) for override in overrides]
    with pytest.raises(InputError, match=r"words=sclip would replace your words .* for boat: give words=own"):
        words_of(compose_cfg(program, *overrides, "protocol=sclip"))
    found = vocabulary(compose_cfg(program, *overrides, "protocol=sclip", "words=own"))
    assert found.words[found.names.index("boat") - found.wordless] == boat


def test_words_of_the_user_that_are_those_of_the_table_are_no_error(compose_cfg: Callable[..., DictConfig]) -> None:
    cfg = compose_cfg("eval", "data=voc21", "protocol=sclip", "++classes.prompts.boat=[ship]")
    assert words_of(cfg)["prompts"]["boat"] == "ship"


def test_a_student_needs_no_words_of_its_own(compose_cfg: Callable[..., DictConfig]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert words_of(compose_cfg("segment", "model=student", "model.checkpoint=x", "protocol=sclip"))["names"] == []


def test_a_background_without_words_is_never_predicted_under_sclips_rule_and_one_with_words_is(
    compose_cfg: Callable[..., DictConfig],
) -> None:
    """The shipped CLIP, its world's things as classes and its surroundings as words of the background, as SCLIP does on VOC21."""
    world = Vocabulary(**plain(compose_cfg("eval", "data=textures").classes))
    things = ["zebra", "chessboard", "target", "ladybug", "leopard", "leaf", "fire", "honeycomb"]
    surroundings = ["grass", "sky", "sand", "water", "brick wall"]
    protocol = Protocol(logit_scale=65, background_threshold=0.1, synonyms="probability")
    scenes = [draw_scene(np.random.default_rng([2, number]), (96, 96)) for number in range(6)]
    images = [torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]
    shares: dict[str, Any] = {}
    for name, prompts in {"without": {}, "with": {"background": surroundings}}.items():
        classes = Vocabulary(["background", *things], prompts=prompts, background=True)
        model = MaskCLIP.build(classes, "maskclip-tiny", "textures", templates="simple", cache=None)
        assert rule_of(model, protocol).threshold == 0.1
        shares[name] = np.mean([(found.labels == 0).float().mean() for found in predict(model, images, protocol)])
    truth = np.mean([np.isin(scene.mask, [world.names.index(name) for name in surroundings]).mean() for scene in scenes])
    assert shares["without"] < 0.01
    assert abs(shares["with"] - truth) < 0.15
