"""The words that other methods give the classes: what is stored, what selects them, and what a background with words changes."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from support.configs import CONF, composed, with_values

from maskclip import InputError, MaskCLIP, Protocol, Vocabulary, predict
from maskclip.inference.predict import rule_of
from maskclip.programs import config
from maskclip.programs.config import plain, recorded, words_of
from maskclip.textures.scenes import draw_scene
from maskclip.vocabulary import read_class_file

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
def test_the_words_are_those_of_the_repositories_for_exactly_the_classes_of_each_list(name: str) -> None:
    cfg = composed("embed_text", f"words={name}")
    tables = plain(cfg.words.tables)
    lists = {key: [[words] if isinstance(words, str) else words for words in table.values()] for key, table in tables.items()}
    assert hashlib.sha256(json.dumps(lists, sort_keys=True).encode()).hexdigest()[:16] == DIGESTS[name]
    assert cfg.words.templates == cfg.model.templates == "openai"
    for classes, words in lists.items():
        file = read_class_file(CONF / "classes" / f"{classes}.yaml")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            built = vocabulary(OmegaConf.create({"classes": file, "words": cfg.words}))
        assert built.wordless == 0 and built.words == words and built.names == list(tables[classes]), classes


@pytest.mark.parametrize(
    ("program", "overrides", "name", "background"),
    [
        ("eval", ["data=voc21"], "own", []),
        ("eval", ["data=voc21", "protocol=sclip"], "sclip", ["sky", "wall"]),
        ("eval", ["data=voc21", "protocol=sclip", "words=own"], "own", []),
        ("eval", ["data=voc21", "words=clearclip", "protocol=naclip"], "clearclip", ["background"]),
        ("eval", ["data=voc21", "protocol=tcl"], "tcl", []),
        ("segment", ["classes=voc21"], "own", []),
        ("segment", ["classes=voc21", "protocol=clearclip"], "clearclip", ["background"]),
        ("segment", ["classes=voc21", "words=proxyclip"], "proxyclip", ["sky", "wall"]),
        ("embed_text", ["classes=voc21", "words=sclip"], "sclip", ["sky", "wall"]),
        ("train", ["experiment=voc21_zero_shot", "protocol=sclip"], "own", []),
        ("train", ["experiment=voc21_zero_shot", "words=sclip"], "sclip", ["sky", "wall"]),
    ],
)
def test_words_follow_the_protocol_in_evaluation_and_the_command_line_everywhere(
    program: str, overrides: list[str], name: str, background: list[str]
) -> None:
    cfg = composed(program, *overrides)
    assert cfg.words.name == recorded(with_values(cfg, paths__output="out"))["words"] == name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built = vocabulary(cfg)
    assert built.wordless == (not background)
    assert not background or built.words[0][: len(background)] == background


def test_unknown_words_are_an_error() -> None:
    with pytest.raises(MissingConfigException, match=r"words/typo(.|\n)*sclip"):
        composed("eval", "words=typo")


@pytest.mark.parametrize(("program", "overrides"), [("eval", ["data=textures"]), ("segment", ["classes.names=[cat,grass]"])])
def test_classes_without_a_table_keep_their_words_with_a_warning(program: str, overrides: list[str]) -> None:
    cfg = composed(program, *overrides, "protocol=sclip")
    with pytest.warns(UserWarning, match=f"words={cfg.words.name} has no table for these classes"):
        assert vocabulary(cfg) == Vocabulary(**plain(cfg.classes))


@pytest.mark.parametrize("words", [["canoe"], "canoe", ["boat"], "file"])
def test_words_of_the_user_are_never_replaced(words: Any, tmp_path: Path) -> None:
    """A table that applies to the classes is an error, and words=own keeps the words."""
    sclip, own = composed("eval", "data=voc21", "protocol=sclip"), composed("eval", "data=voc21", "protocol=sclip", "words=own")
    values = {"classes.prompts.boat": words}
    if words == "file":
        names = Vocabulary(**read_class_file(CONF / "classes" / "voc21.yaml")).names
        (tmp_path / "classes.txt").write_text("\n".join(names).replace("boat", "boat, canoe"))
        values, words = {"classes.names": str(tmp_path / "classes.txt")}, ["boat", "canoe"]
    with pytest.raises(InputError, match=r"words=sclip would replace your words .* for boat: give words=own"):
        words_of(with_values(sclip, **values))
    built = vocabulary(with_values(own, **values))
    assert built.words[built.names.index("boat") - built.wordless] == ([words] if isinstance(words, str) else words)


@pytest.mark.parametrize("name", ["a_list", "zz_list"])  # before and after voc20.yaml in the order of files
def test_words_of_a_class_file_of_the_user_are_never_replaced(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in conf/classes with the names of a shipped list is not that list."""
    shutil.copytree(CONF / "classes", tmp_path / "conf" / "classes")
    monkeypatch.setattr(config, "CHECKOUT", tmp_path)
    own = read_class_file(CONF / "classes" / "voc20.yaml")
    own["prompts"]["person"] = ["person", "pedestrian"]
    (tmp_path / "conf" / "classes" / f"{name}.yaml").write_text(yaml.safe_dump(own))
    config._shipped_prompts.cache_clear()
    for overrides in (["data=voc20", "protocol=sclip"], ["data=voc20", "words=sclip"]):
        cfg = composed("eval", *overrides)
        assert words_of(cfg)["prompts"]["person"][:2] == ["person", "person in shirt"]
        cfg.classes = own
        with pytest.raises(InputError, match=r"words=sclip would replace your words .* for person: give words=own"):
            words_of(cfg)
    cfg = composed("eval", "data=voc20", "protocol=sclip", "words=own")
    cfg.classes = own
    assert words_of(cfg)["prompts"]["person"] == ["person", "pedestrian"]


def test_words_of_the_user_that_are_those_of_the_table_are_no_error() -> None:
    cfg = with_values(composed("eval", "data=voc21", "protocol=sclip"), classes__prompts__boat=["ship"])
    assert words_of(cfg)["prompts"]["boat"] == "ship"


def test_a_student_needs_no_words_of_its_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert words_of(composed("segment", "model=student", "model.checkpoint=x", "protocol=sclip"))["names"] == []


def test_a_background_without_words_is_never_predicted_under_sclips_rule_and_one_with_words_is(
    texture_classes: Vocabulary,
) -> None:
    """The shipped CLIP, its world's things as classes and its surroundings as words of the background, as SCLIP does on VOC21."""
    world = texture_classes
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
        shares[name] = np.mean([(prediction.labels == 0).float().mean() for prediction in predict(model, images, protocol)])
    truth = np.mean([np.isin(scene.mask, [world.names.index(name) for name in surroundings]).mean() for scene in scenes])
    assert shares["without"] < 0.01
    assert abs(shares["with"] - truth) < 0.15
