"""Errors: invalid input is one sentence on stderr and exit status 2."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from support.in_process import run, start
from support.programs import call, expect_one_sentence

from maskclip import InputError
from maskclip.errors import sentence
from maskclip.programs.common import program


def test_errors_with_and_without_a_sentence() -> None:
    assert sentence(InputError("no such file")) == "no such file"
    assert sentence(PermissionError(errno.EACCES, "Permission denied", "a.txt")) == "[Errno 13] Permission denied: 'a.txt'"
    assert sentence(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) == "the disk is full: free some space and run again"
    assert "num_workers=0" in (sentence(RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")) or "")
    assert sentence(RuntimeError("shapes differ")) is None and sentence(KeyError("a")) is None


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), InputError("no such file"), MisconfigurationException("no such GPU")])
def test_stack_traces_on_demand(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    @program
    def main(_: object) -> None:
        raise error

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(type(error)):
        main(OmegaConf.create({}))


@pytest.mark.slow
def test_missing_weights(tmp_path: Path, textures_root: Path) -> None:
    result = call(tmp_path, "eval", "model=maskclip_vit16", "data=textures", f"data.root={textures_root}")
    expect_one_sentence(result, "'openai' of ViT-B-16-quickgelu", "not on this machine", "model.pretrained=/path/to/file")


HAS_GPU = torch.cuda.is_available()
TRAIN = ("train", "experiment=textures_zero_shot", "data.root={textures}")
EVAL = ("eval", "model=maskclip_textures", "data=textures", "data.root={textures}")
SEGMENT = ("segment", "model=maskclip_textures", "classes.names=[zebra]")
SEGMENT_IMAGES = (*SEGMENT, "input={textures}")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("eval", "model=maskclip_vit16"), ["no data in nowhere/VOCdevkit/VOC2010", "python scripts/prepare_context.py"]),
        (("train", "experiment=context_zero_shot"), ["no data in nowhere/VOCdevkit/VOC2010"]),
        ((*TRAIN, "resume=nowhere.ckpt"), ["nothing to resume"]),
        ((*TRAIN, "resume={textures}/JPEGImages/val_00000.jpg"), ["not a checkpoint"]),
        ((*TRAIN, "data.labels=some"), ["data.labels='some'"]),
        (("train", "data=folder", "classes.names=[zebra]", "model@teacher=maskclip_textures"), ["please give data.root=..."]),
        ((*EVAL, "data.root=nowhere"), ["python scripts/prepare_textures.py"]),
        ((*EVAL, "data.masks=x/%.png"), ["no such mask"]),
        ((*EVAL, "model.architecture=ViT-Z"), ["unknown CLIP architecture"]),
        (("eval", "model=student", "model.checkpoint=nowhere", "data=textures", "data.root={textures}"), ["no checkpoint nowhere"]),
        (("eval", "data=folder", "data.root=.", "classes.names=[zebra]", "model=maskclip_textures"), ["an evaluation needs masks"]),
        (("segment", "model=maskclip_textures", "input={textures}"), ["no class names"]),
        ((*SEGMENT, "input=nowhere"), ["no such file or folder: nowhere", "input=photos/"]),
        (SEGMENT, ["no input"]),
        ((*SEGMENT, "input="), ["no input"]),
        ((*SEGMENT_IMAGES, "overwrite=no"), ["overwrite=no: give true or false"]),
        ((*SEGMENT_IMAGES, "masks=no"), ["masks=no: give true or false"]),
        ((*SEGMENT_IMAGES, "output=null"), ["output=null"]),
        ((*SEGMENT_IMAGES, "pages=2"), ["pages=2: give first or all"]),
        ((*SEGMENT_IMAGES, "output=/dev/null/x"), ["/dev/null"]),
        ((*EVAL, "trainer=cpu", "trainer.devices=-1"), ["trainer.devices=-1 means all GPUs"]),
        ((*SEGMENT_IMAGES, "trainer=cpu", "trainer.devices=-1"), ["trainer.devices=-1 means all GPUs"]),
        pytest.param((*SEGMENT_IMAGES, "trainer=gpu"), ["gpu"], marks=pytest.mark.skipif(HAS_GPU, reason="has a GPU")),
    ],
)
def test_invalid_input(tmp_path: Path, textures_root: Path, arguments: tuple[str, ...], parts: list[str]) -> None:
    name, *overrides = (argument.format(textures=textures_root) for argument in arguments)
    expect_one_sentence(run(tmp_path, name, *overrides, "paths.data=nowhere"), *parts)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("segment model=maskclip_textures input=x ouput=y", "no key ouput: did you mean output? (python "),
        ("segment ~ouput", "no key ouput: did you mean output?"),
        ("segment +ouput=x", "no key ouput: did you mean output?"),
        ("segment ++ouput.x=x", "no key ouput: did you mean output?"),
        ("eval --multirun model=maskclip_textures +imags_to_save=1,2", "no key imags_to_save: did you mean images_to_save?"),
        ("segment +output=x", "output is a key already: give output=x without +"),
        ("segment trainer=cpu max_steps=3", "no key max_steps: did you mean trainer.max_steps?"),
        ("segment model.key_smothing=1", "no key model.key_smothing: did you mean model.key_smoothing?"),
        ("eval --cfg job sed=1", "no key sed: did you mean seed?"),
        (
            "segment model=maskclip_vit61",
            "no option maskclip_vit61 of model: did you mean maskclip_vit14, maskclip_vit16 or maskclip_vit32?",
        ),
        ("train experiment=textures_zeroshot", "no option textures_zeroshot of experiment: did you mean textures_zero_shot?"),
        ("eval --multirun model=maskclip_textures,zzz", "no option zzz of model: choose clip_rn50, clip_textures, "),
        ("train model=maskclip_vit16", "no group model in this program: did you mean model@teacher=maskclip_vit16?"),
        ("train +model=maskclip_vit16", "no key model: did you mean model@teacher?"),
        ("segment classes.names=[grass, sky]", "such as 'classes.names=[grass,sky]'"),
        ("segment classes.names=[brick wall, sky] input=x", "such as 'classes.names=[brick wall,sky]'"),
        ("segment classes.names=[grass, input=x", "such as 'classes.names=[grass]'"),
        ("segment classes.names=grass,sky", "give 'classes.names=[grass,sky]' for a list, \"classes.names='grass,sky'\" for a text"),
        ("segment model=maskclip_vit16,clip_vit16", "has several options: give one, or --multirun"),
        ("segment batch_size=range(1,3)", "batch_size=range(1,3) needs --multirun"),
        (
            "segment input=my photo.jpg",
            "photo.jpg is not a setting: give KEY=VALUE, and quote values with spaces, such as 'input=my photo.jpg'",
        ),
        ("segment input=a=b(c", "such as \"input='a=b(c'\""),
        ("segment --config-name=evil", "Cannot find primary config 'evil'"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path: Path, words: str, expected: str) -> None:
    program, *arguments = words.split()
    folder = [f"paths.outputs={tmp_path}"] if "multirun" in words else []
    result = start(tmp_path, f"src/{program}.py", *arguments, *folder)
    expect_one_sentence(result, expected)
    assert len(result.stderr.splitlines()) == 1 and "HYDRA_FULL_ERROR" not in os.environ
    assert not any(f" _{name}" in result.stderr for name in ("maskclip", "textures", "base"))


def test_errors_of_hydra_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigCompositionException):
        start(tmp_path, "src/segment.py", "ouput=y")
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


@pytest.mark.parametrize("words", ["--cfg job", "--help", "--info defaults", "--shell-completion install=bash"])
def test_other_modes_of_hydra_work(tmp_path: Path, words: str) -> None:
    result = start(tmp_path, "src/segment.py", *words.split())
    assert result.returncode == 0 and result.stdout, result.stderr


def test_errors_of_jobs(tmp_path: Path) -> None:
    """A run ends with a sentence; a multirun runs all jobs and ends with the report of Hydra."""
    one = start(tmp_path, "src/segment.py", "model=maskclip_textures", "input=nowhere", f"hydra.run.dir={tmp_path}/run")
    expect_one_sentence(one, "no such file or folder: nowhere")
    words = ("model=maskclip_textures", "input=nowhere,elsewhere", "classes=textures", f"hydra.sweep.dir={tmp_path}/sweep")
    several = start(tmp_path, "src/segment.py", "--multirun", *words)
    assert several.returncode == 1 and {path.name for path in (tmp_path / "sweep").iterdir()} >= {"0", "1"}
    assert "error: no such file or folder: nowhere" in several.stderr and "Traceback" not in several.stderr


def test_a_parameter_that_an_object_does_not_have(tmp_path: Path, textures_root: Path) -> None:
    arguments = ("model=maskclip_textures", "data=textures", f"data.root={textures_root}", "+model.key_smothing=1")
    expected = "model.key_smothing: MaskCLIP.build has no such parameter; did you mean key_smoothing?"
    expect_one_sentence(run(tmp_path, "eval", *arguments), expected)
