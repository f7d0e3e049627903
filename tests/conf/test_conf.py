"""Every option of every config group composes, and every key is a parameter of its `_target_`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from maskclip import InputError, Protocol, Released, Student, Vocabulary
from maskclip.clip import STRATEGIES
from maskclip.data.corruptions import CORRUPTIONS
from maskclip.data.transforms import TrainTransform
from maskclip.programs.common import build, plain
from maskclip.programs.devices import build_trainer

CONF = ROOT / "conf"
PROGRAMS = ("train", "eval", "segment", "embed", "export")
GROUPS = {
    "train": (
        "data",
        "teacher",
        "student",
        "task",
        "protocol",
        "trainer",
        "callbacks",
        "logger",
        "paths",
        "classes",
        "words",
        "experiment",
        "debug",
    ),
    "eval": ("model", "data", "protocol", "trainer", "logger", "paths", "classes", "words", "sweep", "debug"),
    "embed": ("model", "classes", "words", "paths"),
    "export": ("paths",),
    "segment": ("model", "classes", "words", "protocol", "trainer", "paths"),
}
# what a person has to give
NEEDED = ["model.checkpoint=x.ckpt", "data.root=photos"]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_lists_the_groups_of_the_program_and_no_others_and_all_settings(program: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(program, overrides=["hydra.job.name=x"], return_hydra_config=True)
    shown, _, settings = str(cfg.hydra.help.template).partition("Settings, as in key=value, all of them:")
    rows = [line for line in shown.splitlines() if line[:2] == "  " and line[2:3].strip() and line[12:14] == "  "]
    listed = {line.split()[0]: line.split()[1:] for line in rows}
    assert {group for group in GROUPS[program] if len(options(group)) > 1} <= listed.keys() <= set(GROUPS[program])
    assert not any(name.startswith("_") for names in listed.values() for name in names)
    assert f"python src/{program}.py" in shown
    told = yaml.safe_load(settings.partition("Settings of Hydra itself")[0].replace("$$", "$"))
    plain = {key: value for key, value in OmegaConf.to_container(cfg).items() if key != "hydra"}
    for values in (told, plain):
        values.get("classes", {}).pop("palette", None)
    assert told == plain


def cases() -> Iterator[tuple[str, str]]:
    for program in PROGRAMS:
        for group in GROUPS[program]:
            for option in options(group):
                yield program, f"{group}={option}"


def targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a `_target_` in a plain config."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}" if path else str(key))


def overrides_for(override: str) -> list[str]:
    given = [override]
    if override == "model=student":
        given.append(NEEDED[0])
    if override in ("data=folder", "experiment=folder"):
        given.append(NEEDED[1])
    if override == "student=smp":
        given += ["student.arch=segformer", "student.encoder=mit_b0"]
    return given


@pytest.mark.parametrize(("program", "override"), list(cases()))
def test_every_option_composes_and_binds(program: str, override: str, compose_cfg: Callable[..., DictConfig]) -> None:
    cfg = compose_cfg(program, *overrides_for(override), "paths.output=out")
    content = plain(cfg)
    for path, node in targets(content):
        keys = [key for key in node if not key.startswith("_")]
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        assert set(keys) <= set(parameters), f"{path}: {set(keys) - set(parameters)} are no parameters of {node['_target_']}"
    if content.get("classes", {}).get("names"):
        Vocabulary(**content["classes"])


@pytest.mark.parametrize(
    "override", [f"experiment={name}" for name in options("experiment")] + [f"data={name}" for name in options("data")]
)
def test_nested_settings_bind_too(override: str, compose_cfg: Callable[..., DictConfig]) -> None:
    cfg = compose_cfg("train", *overrides_for(override))
    assert set(cfg.data.augmentation) <= set(inspect.signature(TrainTransform).parameters)
    own = {"encoder_output_stride", "encoder_depth", "rates"} if cfg.student.arch == "deeplabv2" else set()
    network = own or set(inspect.signature(smp.DeepLabV3Plus).parameters)
    assert set(cfg.task.student) == set(cfg.student) <= set(inspect.signature(Student).parameters) | network


def test_no_program_overrides_the_model_of_an_experiment() -> None:
    assert "override model" not in (CONF / "eval.yaml").read_text()


@pytest.mark.parametrize("name", options("experiment"))
def test_experiments_are_headed_by_their_command(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_" and lines[1].startswith(f"# python src/train.py experiment={name}")


def test_the_named_commands_compose(compose_cfg: Callable[..., DictConfig]) -> None:
    vit = compose_cfg("eval", "model=maskclip_vit16")
    assert (vit.model.architecture, vit.model.pretrained, vit.data.name) == ("ViT-B-16-quickgelu", "openai", "context59")
    context = compose_cfg("train", "experiment=context_zero_shot")
    assert context.teacher.architecture == "RN50-quickgelu"
    assert (context.data.name, context.data.labels, context.protocol.long_side) == ("context60", "seen", 520)
    assert (context.trainer.max_steps, context.task.guided, context.task.lr) == (40000, 4000, 0.004)
    assert (context.student.arch, context.student.encoder_output_stride) == ("deeplabv3plus", 8)
    assert list(context.student.decoder_atrous_rates) == [12, 24, 36] and context.data.batch_size == 16
    assert context.classes.background and len(context.classes.unseen) == 10


PUBLISHED = {  # data, steps, guided, labels, student
    "voc_annotation_free": ("voc20", 2000, 1.0, "oracle_ignore", "deeplabv2"),
    "context_annotation_free": ("context59", 4000, 1.0, "oracle_ignore", "deeplabv2"),
    "stuff_annotation_free": ("coco_stuff", 8000, 1.0, "oracle_ignore", "deeplabv2"),
    "cityscapes_annotation_free": ("cityscapes", 4000, 1.0, "oracle_ignore", "deeplabv2"),
    "ade_annotation_free": ("ade20k", 8000, 1.0, "oracle_ignore", "deeplabv2"),
    "voc_zero_shot": ("voc20", 20000, 2000, "seen", "deeplabv2"),
    "voc21_zero_shot": ("voc21", 20000, 2000, "seen", "deeplabv2"),
    "stuff_zero_shot": ("coco_stuff", 80000, 8000, "seen", "deeplabv2"),
    "context_zero_shot": ("context60", 40000, 4000, "seen", "deeplabv3plus"),
    "folder": ("folder", 300, 1.0, "none", "deeplabv2"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_schedules_of_the_paper(name: str, compose_cfg: Callable[..., DictConfig]) -> None:
    cfg = compose_cfg("train", *overrides_for(f"experiment={name}"))
    said = (cfg.data.name, cfg.trainer.max_steps, cfg.task.guided, cfg.data.labels, cfg.student.arch)
    assert said == PUBLISHED[name]
    assert (cfg.task.optimizer, cfg.task.momentum, cfg.task.power, cfg.task.min_lr) == ("sgd", None, 0.9, 1e-4)
    assert (cfg.task.lr, cfg.task.weight_decay) == ((0.004, 1e-4) if name == "context_zero_shot" else (0.01, 5e-4))
    assert cfg.data.batch_size == 16 and cfg.student.encoder == "tu-resnet101c"


WHOLE = (None, None)
NO_SCALE = NO_BACKGROUND = NO_AREA = None

# Short side, (window, stride), logit scale, background threshold, area threshold; the long side is at most 2048 in all.
# Copied by hand from configs/cfg_*.py and the defaults of the segmentor's __init__ in each repository; data sets that a repository
# has no config for have its defaults.
PUBLISHED_PROTOCOLS: dict[str, dict[str, tuple[Any, ...]]] = {
    # github.com/wangf3014/SCLIP: configs of 57fa9aa, clip_segmentor.py of d84d4ab
    "sclip": {
        "voc21": (336, (224, 112), 65, 0.1, 0.1),
        "context60": (336, (224, 112), 50, 0.1, NO_AREA),
        "coco_object": (336, (224, 112), 50, 0.1, NO_AREA),
        "voc20": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "context59": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "coco_stuff": (448, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "cityscapes": (560, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "ade20k": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "context459": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "folder": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "textures": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
    },
    # github.com/sinahmr/NACLIP: configs and naclip.py of defb7c9 (slide_crop=0 on VOC: the whole image)
    "naclip": {
        "voc21": (336, WHOLE, 40, 0.1, NO_AREA),
        "context60": (336, (224, 112), 40, 0.1, NO_AREA),
        "coco_object": (336, (224, 112), 40, 0.1, NO_AREA),
        "voc20": (336, WHOLE, 40, NO_BACKGROUND, NO_AREA),
        "context59": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "coco_stuff": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "cityscapes": (560, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "ade20k": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "context459": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "folder": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "textures": (336, (224, 112), 40, NO_BACKGROUND, NO_AREA),
    },
    # github.com/mc-lan/ClearCLIP: configs of fd05ce4, clearclip_segmentor.py of afe06b8
    "clearclip": {
        "voc21": (448, (448, 224), 50, 0.5, NO_AREA),
        "context60": (448, (448, 224), 50, 0.15, NO_AREA),
        "coco_object": (448, (448, 224), 50, 0.4, NO_AREA),
        "voc20": (448, (448, 224), 50, NO_BACKGROUND, NO_AREA),
        "context59": (448, (448, 224), 50, NO_BACKGROUND, NO_AREA),
        "coco_stuff": (448, (448, 224), 50, NO_BACKGROUND, NO_AREA),
        "cityscapes": (448, (224, 224), 50, NO_BACKGROUND, NO_AREA),
        "ade20k": (448, (448, 224), 50, NO_BACKGROUND, NO_AREA),
        "context459": (448, (448, 224), 50, NO_BACKGROUND, NO_AREA),
        "folder": (448, (448, 224), 50, NO_BACKGROUND, NO_AREA),
        "textures": (448, (448, 224), 50, NO_BACKGROUND, NO_AREA),
    },
    # github.com/mc-lan/ProxyCLIP: configs and proxyclip_segmentor.py of 05c3c18
    "proxyclip": {
        "voc21": (336, (336, 112), 40, 0.2, NO_AREA),
        "context60": (336, (336, 112), 40, 0.15, NO_AREA),
        "coco_object": (336, (336, 112), 40, 0.25, NO_AREA),
        "voc20": (336, (336, 112), 40, NO_BACKGROUND, NO_AREA),
        "context59": (336, (336, 112), 40, NO_BACKGROUND, NO_AREA),
        "coco_stuff": (336, (336, 112), 40, NO_BACKGROUND, NO_AREA),
        "cityscapes": (448, (224, 112), 40, NO_BACKGROUND, NO_AREA),
        "ade20k": (448, (336, 112), 40, NO_BACKGROUND, NO_AREA),
        "context459": (448, (336, 112), 40, NO_BACKGROUND, NO_AREA),
        "folder": (336, (336, 112), 40, NO_BACKGROUND, NO_AREA),
        "textures": (336, (336, 112), 40, NO_BACKGROUND, NO_AREA),
    },
    # github.com/khanrc/tcl (kakaobrain/tcl): segmentation/configs/_base_/datasets of e643d68; its scale and background are its network's
    "tcl": {
        "voc21": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
        "context60": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
        "coco_object": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
        "voc20": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
        "context59": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
        "coco_stuff": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
        "cityscapes": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
        "ade20k": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
        "context459": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
        "folder": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
        "textures": (448, (448, 224), NO_SCALE, NO_BACKGROUND, NO_AREA),
    },
}
# Synonyms, sentences, normalisation (None: CLIP's own), words
FOR_ALL_DATA: dict[str, tuple[Any, ...]] = {
    "sclip": ("probability", "openai", None, "sclip"),
    "naclip": ("probability", "openai", None, "naclip"),
    "clearclip": ("probability", "openai", None, "clearclip"),
    "proxyclip": ("probability", "openai", None, "proxyclip"),
    "tcl": ("best", "tcl", "imagenet", "own"),
}
# The paper (section 4.1 and the released configs): Pascal Context long side 520, others short side 512 and long side at most 2048.
CONTEXT_SIZE, OTHER_SIZE = Protocol(long_side=520), Protocol(short_side=512, long_side=2048)
PAPER = {"context59": CONTEXT_SIZE, "context60": CONTEXT_SIZE, "context459": CONTEXT_SIZE, "textures": Protocol()}
OWN_PROTOCOLS = {
    "paper": PAPER,
    "official": PAPER,
    "multi_scale": dict.fromkeys(options("data"), Protocol(scales=[224, 336, 520], long_side=2048)),
    "native": dict.fromkeys(options("data"), Protocol()),
    "long_520": dict.fromkeys(options("data"), CONTEXT_SIZE),
    "short_512": {},
}


def test_the_tables_state_every_protocol_and_every_data_set() -> None:
    assert PUBLISHED_PROTOCOLS.keys() | OWN_PROTOCOLS.keys() == set(options("protocol"))
    assert all(set(table) == set(options("data")) for table in PUBLISHED_PROTOCOLS.values())


@pytest.mark.parametrize("data", options("data"))
@pytest.mark.parametrize("protocol", PUBLISHED_PROTOCOLS)
def test_published_protocols_have_the_values_of_their_repositories(
    protocol: str, data: str, compose_cfg: Callable[..., DictConfig]
) -> None:
    cfg = compose_cfg("eval", *overrides_for(f"data={data}"), f"protocol={protocol}", "model=maskclip_vit16")
    built, (short_side, (window, stride), scale, threshold, area) = build(cfg.protocol), PUBLISHED_PROTOCOLS[protocol][data]
    synonyms, templates, normalisation, words = FOR_ALL_DATA[protocol]
    assert built == Protocol(
        short_side=short_side,
        long_side=2048,
        window=window,
        stride=stride,
        logit_scale=scale,
        background_threshold=threshold,
        area_threshold=area,
        synonyms=synonyms,
    )
    assert (cfg.model.templates, cfg.model.normalisation, cfg.words.name) == (templates, normalisation, words)
    assert (threshold is None and area is None) or cfg.classes.background


@pytest.mark.parametrize("data", options("data"))
@pytest.mark.parametrize("protocol", OWN_PROTOCOLS)
def test_the_projects_own_protocols(protocol: str, data: str, compose_cfg: Callable[..., DictConfig]) -> None:
    cfg = compose_cfg("eval", *overrides_for(f"data={data}"), f"protocol={protocol}", "model=maskclip_vit16")
    assert build(cfg.protocol) == OWN_PROTOCOLS[protocol].get(data, OTHER_SIZE)
    if protocol == "paper" and data != "folder":
        assert build(cfg.protocol) == build(compose_cfg("eval", f"data={data}").protocol)  # what the data set chooses itself
    assert (cfg.model.templates, cfg.model.normalisation, cfg.words.name) == ("maskclip", None, "own")


def test_protocols_leave_alone_what_has_no_sentences_or_its_own(compose_cfg: Callable[..., DictConfig]) -> None:
    assert set(compose_cfg("eval", "protocol=sclip", "model=student").model) == {"_target_", "checkpoint"}
    assert len(compose_cfg("eval", "protocol=sclip", "model=maskclip_textures").model.templates) == 6
    assert compose_cfg("eval", "protocol=tcl", "model=maskclip_textures").model.normalisation is None
    assert compose_cfg("eval", "protocol=tcl", "model.normalisation=openai").model.normalisation == "openai"
    assert compose_cfg("eval", "protocol=sclip", "model.templates=simple").model.templates == "simple"
    segment = compose_cfg("segment", "protocol=sclip", "protocol.short_side=500")
    assert (build(segment.protocol).short_side, build(segment.protocol).logit_scale, segment.model.templates) == (500, 40, "openai")


def test_clip_and_maskclip_differ_in_the_strategy_only(compose_cfg: Callable[..., DictConfig]) -> None:
    ours, baseline = (plain(compose_cfg("eval", f"model={name}_vit16").model) for name in ("maskclip", "clip"))
    assert {key for key in ours if ours[key] != baseline[key]} == {"strategy"}


COUNTS = {
    "voc20": (20, 5),
    "voc21": (21, 5),
    "context59": (59, 0),
    "context60": (60, 10),
    "context459": (459, 0),
    "coco_stuff171": (171, 15),
    "coco_object": (81, 0),
    "cityscapes19": (19, 0),
    "ade150": (150, 0),
    "textures": (13, 4),
    "web_batman": (7, 0),
    "web_batman_ext": (26, 0),
    "web_blur": (20, 0),
    "web_car_brands": (23, 0),
    "web_car_color": (24, 0),
    "web_gates": (7, 0),
    "web_mario": (7, 0),
    "web_mickey": (7, 0),
    "web_sports": (17, 0),
}


def test_every_class_list_is_counted() -> None:
    assert set(COUNTS) | {"custom"} == set(options("classes"))


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_class_lists(name: str) -> None:
    vocabulary = Vocabulary(**OmegaConf.to_container(OmegaConf.load(CONF / "classes" / f"{name}.yaml")))
    assert (len(vocabulary), len(vocabulary.unseen)) == COUNTS[name]
    assert len(vocabulary.colours) == len(vocabulary)
    assert vocabulary.background == (vocabulary.names[0] == "background")


UNSEEN = {
    "voc20": [15, 16, 17, 18, 19],
    "context60": [1, 7, 8, 15, 20, 25, 32, 34, 49, 55],
    "coco_stuff171": [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160],
}


@pytest.mark.parametrize("name", sorted(UNSEEN))
def test_unseen_classes_stand_where_the_protocol_has_them(name: str) -> None:
    vocabulary = Vocabulary(**OmegaConf.to_container(OmegaConf.load(CONF / "classes" / f"{name}.yaml")))
    assert sorted(vocabulary.unseen_indices) == UNSEEN[name]


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
    habits = [field.name for field in fields(Released)]
    choices = yaml.safe_load(f"[{sweep('official_differences')['model.released']}]")
    assert choices == [{}, *({habit: True} for habit in habits), dict.fromkeys(habits, True)]


@pytest.mark.parametrize(("name", "without"), [("vit16", set()), ("rn50", {"exact_gelu", "layer_norm_eps", "projected_keys", "stretch"})])
def test_the_official_presets(name: str, without: set[str], compose_cfg: Callable[..., DictConfig]) -> None:
    ours, official = (plain(compose_cfg("eval", f"model={preset}").model) for preset in (f"maskclip_{name}", f"maskclip_{name}_official"))
    assert {key for key in ours if ours[key] != official[key]} == {"released", "logit_scale"} and official["logit_scale"] == 100
    assert {key for key, on in official["released"].items() if on is True} == {f.name for f in fields(Released)} - without
    assert not any(on is True for on in ours["released"].values())


def test_the_tiny_clips_config_is_open_clips_format() -> None:
    content = json.loads((ROOT / "src/maskclip/assets/maskclip-tiny.json").read_text())
    assert set(content) == {"embed_dim", "vision_cfg", "text_cfg"}


def test_a_setting_that_its_target_does_not_have() -> None:
    with pytest.raises(InputError, match=r"maskclip.inference.protocol.Protocol: got an unexpected keyword argument 'strides'"):
        build(OmegaConf.create({"_target_": "maskclip.inference.protocol.Protocol", "strides": 1}))


@pytest.mark.parametrize(
    "setting", ["num_nodes=x", "num_nodes=0", "devices=x", "devices=0", "devices=[]", "devices=[a]", "devices=true", "devices=-2"]
)
def test_devices_that_cannot_be(setting: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("eval", overrides=["trainer=cpu", f"trainer.{setting}", "trainer.default_root_dir=null"])
    with pytest.raises(InputError, match=f"trainer.{setting.partition('=')[0]}="):
        build_trainer(cfg)
