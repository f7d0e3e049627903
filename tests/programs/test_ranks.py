"""Runs over two processes of which one fails: one sentence, exit status 2, nobody waits for a process that has ended."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from test_programs import SMALL_STUDENT, TINY, call, command, environment, expect_one_sentence

from maskclip import InputError
from maskclip.data.samplers import NumberedDraws
from maskclip.programs import program
from maskclip.programs.common import sentence


@pytest.fixture
def scenes(textures_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(textures_root, tmp_path / "scenes"))


def test_errors_of_the_user_have_a_sentence() -> None:
    assert sentence(InputError("no such file")) == "no such file"
    assert sentence(MisconfigurationException("no such GPU")) == "no such GPU"
    assert sentence(PermissionError(errno.EACCES, "Permission denied", "a.txt")) == "[Errno 13] Permission denied: 'a.txt'"
    assert sentence(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) == "the disk is full: free some space and run again"
    assert "num_workers=0" in (sentence(RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")) or "")
    assert sentence(RuntimeError("shapes differ")) is None and sentence(KeyError("a")) is None


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), InputError("no such file"), MisconfigurationException("no such GPU")])
def test_stack_traces_are_shown_on_demand(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    @program
    def main(_: object) -> None:
        raise error

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(type(error)):
        main(OmegaConf.create({}))


@pytest.mark.slow
def test_a_broken_image_of_the_second_process_ends_an_evaluation(tmp_path: Path, scenes: Path) -> None:
    (scenes / "JPEGImages" / "val_00001.jpg").write_text("no picture")
    result = call(tmp_path, "eval", *TINY, "trainer=ddp_cpu", f"data.root={scenes}", "pictures=0")
    expect_one_sentence(result, "cannot read the image", "val_00001.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_broken_image_of_one_process_ends_a_training(tmp_path: Path, scenes: Path, rank: int) -> None:
    images = sorted((scenes / "JPEGImages").glob("train_*.jpg"))
    draws = NumberedDraws(images, seed=0, batch=2)
    own, others = ({draws.image(number) for number in (2 * r, 2 * r + 1)} for r in (rank, 1 - rank))
    images[min(own - others)].write_text("no picture")
    settings = (*SMALL_STUDENT, f"data.root={scenes}", "trainer.max_steps=3", "trainer.val_check_interval=3", "data.batch_size=4")
    expect_one_sentence(call(tmp_path, "train", *settings, "trainer=ddp_cpu"), "cannot read the image", images[min(own - others)].name)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the process in /proc")
def test_a_process_that_is_killed_ends_the_others(tmp_path: Path, scenes: Path) -> None:
    settings = (*SMALL_STUDENT, f"data.root={scenes}", "trainer.max_steps=100000", "trainer=ddp_cpu", "data.batch_size=4")
    line = command("train", *settings, f"hydra.run.dir={tmp_path}/out")
    process = subprocess.Popen(line, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    start = time.time()
    while not (tmp_path / "out" / "checkpoints" / "last.ckpt").exists() and time.time() - start < 120:
        time.sleep(0.05)
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if "hydra.output_subdir=null" in Path(f"/proc/{child}/cmdline").read_text():
            os.kill(int(child), signal.SIGKILL)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in messages
    assert messages.count("error: ") == 1 and "was killed (signal 9)" in messages
