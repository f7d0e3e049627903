"""Errors: invalid input is one sentence on stderr and exit status 2."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from support.in_process import run
from support.programs import call, expect_one_sentence

from maskclip import InputError
from maskclip.errors import sentence
from maskclip.programs import program


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
