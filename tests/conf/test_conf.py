"""Every option of every config group composes, and every key is a parameter of its `_target_`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from support.configs import CONF, composed, options, required, with_values

from maskclip import InputError, Protocol, Released, Student, Vocabulary
from maskclip.clip.strategies import STRATEGIES
from maskclip.data.corruptions import CORRUPTIONS
from maskclip.data.transforms import TrainTransform
from maskclip.models.networks import OPTIONS
from maskclip.programs.config import build, plain, words_of
from maskclip.programs.devices import build_trainer
from maskclip.vocabulary import read_class_file

SHARED = ("trainer", "words", "classes")
GROUPS = {
    "train": (
        *SHARED,
        "model@teacher",
        "pseudo_labels",
        "data",
        "student",
        "task",
        "protocol",
        "callbacks",
        "logger",
        "experiment",
        "debug",
    ),
    "eval": (*SHARED, "model", "data", "protocol", "logger", "sweep", "debug"),
    "segment": (*SHARED, "model", "protocol"),
    "embed_text": ("model", "classes", "words"),
    "export": (),
}


def options_of(group: str) -> list[str]:
    return options(group.partition("@")[0])


def combinations(*groups: str) -> Iterator[list[str]]:
    """Overrides that select every option of the groups at least once, one option of each group at a time."""
    for row in zip_longest(*([f"{group}={option}" for option in options_of(group)] for group in groups)):
        yield required(*filter(None, row))


def check_targets(node: Any, overrides: list[str], path: str = "") -> None:
    """Every key beside a `_target_` is one of its parameters."""
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        unknown = {key for key in node if not key.startswith("_")} - set(parameters)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        assert open_ended or not unknown, f"{overrides}: {path} has {unknown}, no parameters of {node['_target_']}"
    for key, value in node.items():
        check_targets(value, overrides, f"{path}.{key}")


def check_nested(cfg: DictConfig) -> None:
    """Augmentation and student are plain mappings, whose keys other functions read."""
    assert set(cfg.data.augmentation) <= set(inspect.signature(TrainTransform).parameters)
    if "student" not in cfg.task:
        return
    arch = cfg.student.arch
    network = set(OPTIONS.get(arch) or inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[arch]).parameters)
    assert set(cfg.task.student) == set(cfg.student) <= set(inspect.signature(Student).parameters) | network


def check(program: str, overrides: list[str]) -> None:
    cfg = with_values(composed(program, *overrides), paths__output="out")
    content = plain(cfg)
    check_targets(content, overrides)
    if content.get("classes", {}).get("names"):
        Vocabulary(**content["classes"])
    if program == "train":
        check_nested(cfg)


@pytest.mark.parametrize(
    ("program", "groups"),
    [
        ("train", ("model@teacher", "data", "student", "task", "callbacks", "trainer")),
        ("eval", ("model", "data", "trainer", "logger")),
        ("segment", ("classes", "protocol", "trainer")),
    ],
)
def test_every_option_composes_and_binds(program: str, groups: tuple[str, ...]) -> None:
    for overrides in combinations(*groups):
        check(program, overrides)


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes_binds_and_is_headed_by_its_command(name: str) -> None:
    check("train", required(f"experiment={name}"))
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_" and lines[1].startswith(f"# python src/train.py experiment={name}")


def test_options_that_change_values_only_compose() -> None:
    check("train", ["debug=quick"])
    for name in options("sweep"):
        check("eval", [f"sweep={name}"])


@pytest.mark.parametrize("program", GROUPS)
def test_help_lists_the_groups_and_all_keys_of_the_program(program: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(program, overrides=["hydra.job.name=x"], return_hydra_config=True)
    groups, _, keys = str(cfg.hydra.help.template).partition("All keys and their values")
    names = [line.split()[0] for line in groups.splitlines() if line[:2] == "  " and line[2:3].strip() and line[15:16] == " "]
    assert {group for group in GROUPS[program] if len(options_of(group)) > 1} <= set(names) <= {*GROUPS[program], "python"}
    assert not any(word.startswith(("_", "[_")) for word in groups.split()) and f"python src/{program}.py" in groups
    printed = yaml.safe_load(keys.partition("\n\n")[2].rpartition("\n\n")[0].replace("$$", "$"))
    expected = {key: value for key, value in OmegaConf.to_container(cfg).items() if key != "hydra"}
    for values in (printed, expected):
        values.get("classes", {}).pop("palette", None)
    assert printed == expected


def test_no_program_overrides_the_model_of_an_experiment() -> None:
    assert "override model" not in (CONF / "eval.yaml").read_text()


# Protocols


def data_file(name: str) -> DictConfig:
    return OmegaConf.load(CONF / "data" / f"{name}.yaml")


def protocol_for(protocol: str, data: str) -> Protocol:
    """A protocol on a data set, as Hydra merges their files."""
    files = [OmegaConf.load(CONF / "protocol" / f"{name}.yaml") for name in ("_base", protocol)]
    node = OmegaConf.merge(*files)
    node.pop("defaults", None)
    return build(OmegaConf.create({"protocols": data_file(data).get("protocols", {}), "protocol": node}).protocol)


def test_protocols_are_merged_as_hydra_does() -> None:
    for protocol, data in (("sclip", "voc21"), ("naclip", "voc20"), ("paper", "context59")):
        assert protocol_for(protocol, data) == build(composed("eval", f"data={data}", f"protocol={protocol}").protocol)


def test_every_number_that_a_data_set_states_is_read_by_its_protocol() -> None:
    for data in options("data"):
        classes = next(entry["/classes"] for entry in data_file(data).defaults if "/classes" in entry)
        has_background = read_class_file(CONF / "classes" / f"{classes}.yaml")["background"]
        for name, numbers in data_file(data).get("protocols", {}).items():
            built = protocol_for(name, data)
            assert {key: getattr(built, key) for key in numbers} == numbers, (data, name)
            assert not built.background_threshold or has_background, (data, name)


def test_every_protocol_is_valid_on_a_data_set_without_numbers() -> None:
    assert protocol_for("paper", "folder") == protocol_for("short_512", "folder") == Protocol(short_side=512, long_side=2048)
    for protocol in options("protocol"):
        assert protocol_for(protocol, "folder").background_threshold is None


COMMON = {"long_side": 2048, "synonyms": "probability"}
SCLIP = {"short_side": 336, "window": 224, "stride": 112, **COMMON}


@pytest.mark.parametrize(
    ("protocol", "data", "expected"),
    [
        # github.com/wangf3014/SCLIP: configs of 57fa9aa, clip_segmentor.py of d84d4ab
        ("sclip", "voc21", {**SCLIP, "logit_scale": 65, "background_threshold": 0.1, "area_threshold": 0.1}),
        ("sclip", "context60", {**SCLIP, "logit_scale": 50, "background_threshold": 0.1}),
        ("sclip", "coco_stuff", {**SCLIP, "short_side": 448, "logit_scale": 40}),
        ("sclip", "cityscapes", {**SCLIP, "short_side": 560, "logit_scale": 40}),
        # github.com/sinahmr/NACLIP: configs and naclip.py of defb7c9 (slide_crop=0 on VOC: the whole image)
        ("naclip", "voc20", {"short_side": 336, "logit_scale": 40, **COMMON}),
        ("naclip", "coco_object", {**SCLIP, "logit_scale": 40, "background_threshold": 0.1}),
        # github.com/mc-lan/ClearCLIP: configs of fd05ce4, clearclip_segmentor.py of afe06b8
        ("clearclip", "voc21", {"short_side": 448, "window": 448, "stride": 224, "logit_scale": 50, "background_threshold": 0.5, **COMMON}),
        ("clearclip", "cityscapes", {"short_side": 448, "window": 224, "stride": 224, "logit_scale": 50, **COMMON}),
        # github.com/mc-lan/ProxyCLIP: configs and proxyclip_segmentor.py of 05c3c18
        ("proxyclip", "voc21", {**SCLIP, "window": 336, "logit_scale": 40, "background_threshold": 0.2}),
        ("proxyclip", "ade20k", {**SCLIP, "window": 336, "short_side": 448, "logit_scale": 40}),
        # github.com/khanrc/tcl (kakaobrain/tcl): segmentation/configs/_base_/datasets of e643d68
        ("tcl", "context60", {"short_side": 448, "long_side": 2048, "window": 448, "stride": 224}),
        # the paper, section 4.1, and the released configs
        ("paper", "context59", {"long_side": 520}),
        ("paper", "voc20", {"short_side": 512, "long_side": 2048}),
    ],
)
def test_published_values(protocol: str, data: str, expected: dict[str, Any]) -> None:
    assert protocol_for(protocol, data) == Protocol(**expected)


def test_a_protocol_brings_its_templates_and_preprocessing_to_evaluation() -> None:
    for program, data in (("eval", ["data=voc21"]), ("segment", [])):
        sclip, tcl = (composed(program, *data, f"protocol={name}") for name in ("sclip", "tcl"))
        with_words = {name: OmegaConf.select(cfg, "words.name") for name, cfg in (("sclip", sclip), ("tcl", tcl))}
        assert with_words == {"sclip": "sclip", "tcl": "tcl"}
        assert (sclip.model.templates, sclip.model.normalisation) == ("openai", None)
        assert (tcl.model.templates, tcl.model.normalisation) == ("tcl", "imagenet")
        assert (composed(program).model.templates, composed(program).words.name) == ("maskclip", "own")


def test_a_protocol_leaves_alone_a_model_with_other_templates_or_none() -> None:
    assert set(composed("eval", "protocol=sclip", "model=student").model) == {"_target_", "checkpoint"}
    tiny = composed("eval", "protocol=tcl", "model=maskclip_textures").model
    assert len(tiny.templates) == 6 and tiny.normalisation is None
    chosen = composed("eval", "protocol=tcl", "model.templates=simple", "model.normalisation=openai", "protocol.short_side=500")
    assert (chosen.model.templates, chosen.model.normalisation, chosen.protocol.short_side) == ("simple", "openai", 500)


def test_training_targets_do_not_depend_on_the_protocol() -> None:
    """Teacher (templates, normalisation), words and task of a training run are those of the run without a protocol."""
    before = composed("train", "experiment=voc21_zero_shot")
    for name in ("sclip", "proxyclip", "tcl"):
        cfg = composed("train", "experiment=voc21_zero_shot", f"protocol={name}")
        assert build(cfg.protocol) != build(before.protocol)
        for key in ("teacher", "task", "student", "data"):
            assert plain(cfg[key]) == plain(before[key]), (name, key)
        assert words_of(cfg) == words_of(before)
    assert composed("train", "experiment=voc21_zero_shot", "words=sclip").teacher.templates == "openai"


# Models and class lists


def test_a_model_has_the_same_values_as_a_teacher() -> None:
    for name in ("maskclip_rn101", "clip_vit16"):
        assert plain(composed("train", f"model@teacher={name}").teacher) == plain(composed("eval", f"model={name}").model)


def test_clip_and_maskclip_differ_in_the_strategy_only() -> None:
    ours, baseline = (plain(composed("eval", f"model={name}_vit16").model) for name in ("maskclip", "clip"))
    assert {key for key in ours if ours[key] != baseline[key]} == {"strategy"}


@pytest.mark.parametrize(("name", "without"), [("vit16", set()), ("rn50", {"exact_gelu", "layer_norm_eps", "projected_keys", "stretch"})])
def test_the_official_presets(name: str, without: set[str]) -> None:
    ours, official = (plain(composed("eval", f"model={preset}").model) for preset in (f"maskclip_{name}", f"maskclip_{name}_official"))
    assert {key for key in ours if ours[key] != official[key]} == {"released", "logit_scale"} and official["logit_scale"] == 100
    assert {key for key, on in official["released"].items() if on is True} == {f.name for f in fields(Released)} - without
    assert not any(on is True for on in ours["released"].values())


def test_class_lists() -> None:
    for path in (CONF / "classes").glob("*.yaml"):
        if path.stem == "custom":
            continue
        vocabulary = Vocabulary(**read_class_file(path))
        assert len(set(vocabulary.names)) == len(vocabulary.colours) == len(vocabulary), path
        assert vocabulary.background == (vocabulary.names[0] == "background"), path
        number = "".join(filter(str.isdigit, path.stem))
        assert not number or len(vocabulary) == int(number), path


@pytest.mark.parametrize(
    ("name", "unseen"),
    [
        ("voc20", [15, 16, 17, 18, 19]),
        ("voc21", [16, 17, 18, 19, 20]),
        ("context60", [1, 7, 8, 15, 20, 25, 32, 34, 49, 55]),
        ("coco_stuff171", [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160]),
    ],
)
def test_unseen_classes_are_those_of_the_zero_shot_protocol(name: str, unseen: list[int]) -> None:
    assert sorted(Vocabulary(**read_class_file(CONF / "classes" / f"{name}.yaml")).unseen_indices) == unseen


def test_the_example_of_a_class_list_composes() -> None:
    cfg = composed("segment", "classes=_example")
    assert Vocabulary(**words_of(cfg)).words[1] == ["Joker", "The Joker"] and "_example" not in options("classes")


def test_a_class_list_is_read_as_hydra_composes_it() -> None:
    for name in ("voc21", "context60"):
        assert plain(composed("segment", f"classes={name}").classes) == read_class_file(CONF / "classes" / f"{name}.yaml")


# Students


def test_the_encoders_of_students_exist_with_their_weights() -> None:
    for name in options("student"):
        cfg = composed("train", *required(f"student={name}")).student
        encoder = cfg.encoder.removeprefix("tu-")
        if cfg.weights == "pretrained":
            assert encoder in timm.list_pretrained(), name
        else:
            known = timm.is_model_pretrained(encoder) if encoder != cfg.encoder else encoder in smp.encoders.encoders
            assert known, name
    assert "vit_small_patch16_dinov3.lvd1689m" in timm.list_pretrained()  # named in the comments of upernet_vit.yaml
    assert {f"mit_b{size}" for size in range(6)} <= set(smp.encoders.encoders)  # named in the comments of segformer.yaml


# Sweeps


def sweep(name: str) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(CONF / "sweep" / f"{name}.yaml"))
    assert isinstance(content, dict) and content["hydra"]["mode"] == "MULTIRUN"
    return content["hydra"]["sweeper"]["params"]


def test_the_sweep_of_strategies_is_all_that_need_no_download() -> None:
    assert sweep("strategies")["model.strategy"].split(",") == [name for name in STRATEGIES if name != "proxyclip"]


def test_the_sweep_of_corruptions_is_the_papers() -> None:
    parameters = sweep("corruptions")
    assert parameters["data.corruption"].split(",") == ["null", *CORRUPTIONS]
    assert [int(severity) for severity in parameters["data.severity"].split(",")] == [1, 2, 3, 4, 5]


def test_the_sweep_of_differences_is_none_each_and_all() -> None:
    differences = [field.name for field in fields(Released)]
    choices = yaml.safe_load(f"[{sweep('official_differences')['model.released']}]")
    assert choices == [{}, *({name: True} for name in differences), dict.fromkeys(differences, True)]


# Paths and the machine


def test_the_folder_of_data_sets_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = composed("eval", "data=voc20")
    monkeypatch.delenv("MASKCLIP_DATA", raising=False)
    assert cfg.data.root == f"{ROOT}/data/VOCdevkit/VOC2012"
    monkeypatch.setenv("MASKCLIP_DATA", "/sets")
    assert cfg.data.root == "/sets/VOCdevkit/VOC2012"


@pytest.mark.parametrize("program", [*GROUPS, "inspect"])
def test_every_program_reads_the_settings_of_this_machine(program: str, tmp_path: Path) -> None:
    """conf/local/default.yaml overrides the program's values and an experiment's, and the command line overrides it."""
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "default.yaml").write_text("# @package _global_\npaths:\n  data: /sets\n  outputs: /runs\n")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(program, overrides=[f"hydra.searchpath=[file://{tmp_path}]", "paths.outputs=/runs"])
    assert (cfg.paths.data, cfg.paths.outputs) == ("/sets", "/runs")
    assert "/conf/local/" in (ROOT / ".gitignore").read_text().splitlines()


def test_ddp_sets_devices_and_strategy_only() -> None:
    one, many = (plain(composed("train", f"trainer={name}", "paths.output=out").trainer) for name in ("default", "ddp"))
    assert {key for key in one if one[key] != many[key]} == {"devices", "strategy"}


# Errors


def test_a_setting_that_its_target_does_not_have() -> None:
    with pytest.raises(InputError, match="strides: Protocol has no such parameter; did you mean stride"):
        build(OmegaConf.create({"_target_": "maskclip.inference.protocol.Protocol", "strides": 1}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_nodes", value) for value in ("x", 0)),
        *(("devices", value) for value in ("x", 0, [], ["a"], True, -2)),
        ("devices", -1),  # all GPUs, on the CPU
    ],
)
def test_invalid_devices(key: str, value: Any) -> None:
    cfg = composed("eval", "trainer=cpu", "trainer.default_root_dir=null")
    OmegaConf.update(cfg, f"trainer.{key}", value)
    with pytest.raises(InputError, match=f"trainer.{key}="):
        build_trainer(cfg)


def test_the_tiny_clips_config_is_open_clips_format() -> None:
    content = json.loads((ROOT / "src/maskclip/assets/maskclip-tiny.json").read_text())
    assert set(content) == {"embed_dim", "vision_cfg", "text_cfg"}
