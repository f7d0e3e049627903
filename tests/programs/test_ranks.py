"""Runs on two processes of which one fails: one sentence, exit status 2, and no process waits for another that has ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.programs import SMALL_STUDENT, TINY, call, command, environment, expect_one_sentence

from maskclip.data.samplers import NumberedDraws
from maskclip.programs.ranks import GRACE


@pytest.fixture
def scenes(textures_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(textures_root, tmp_path / "scenes"))


TWO_PROCESSES = """
import os, signal, time
import hydra
from torch import distributed
from maskclip import InputError
from maskclip.programs.common import program

rank = int(os.environ["RANK"])

@hydra.main(version_base="1.3", config_path=None)
@program
def main(_):
    distributed.init_process_group("gloo")
    distributed.barrier()
    {body}

main()
"""


def run_two(folder: Path, body: str) -> tuple[list[int], list[str]]:
    """Exit statuses and messages of two processes that run `body` together. The first one holds the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2", "HYDRA_FULL_ERROR": "0"}
    (folder / "program.py").write_text(TWO_PROCESSES.format(body=body))
    line = [sys.executable, str(folder / "program.py"), "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none"]
    processes = [
        subprocess.Popen(line, cwd=folder, env=os.environ | shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    messages = [processes[0].communicate(timeout=120)[1]]
    (folder / "first_ended").touch()
    messages.append(processes[1].communicate(timeout=120)[1])
    return [process.returncode for process in processes], messages


@pytest.mark.slow
def test_the_first_process_does_not_wait_for_one_that_has_ended(tmp_path: Path) -> None:
    body = "if rank == 1: return\n    time.sleep(1)\n    open('failed', 'w').close()\n    raise InputError('one broken image')"
    statuses, messages = run_two(tmp_path, body)
    assert (tmp_path / "first_ended").stat().st_mtime - (tmp_path / "failed").stat().st_mtime < GRACE / 2
    assert statuses == [2, 0] and messages[0].count("error: one broken image") == 1 and messages[1] == ""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["return", "os._exit(0)"])
def test_an_error_after_the_first_process_has_ended_is_reported(tmp_path: Path, end: str) -> None:
    statuses, messages = run_two(tmp_path, f"if rank == 0: {end}\n    time.sleep(3)\n    raise InputError('the cause')")
    assert statuses == [0, 2] and messages[0] == ""
    assert "error: the cause" in messages[1] and "out of memory" not in messages[1]


@pytest.mark.slow
def test_processes_that_end_one_after_the_other_print_nothing(tmp_path: Path) -> None:
    assert run_two(tmp_path, "time.sleep(2 * rank)") == ([0, 0], ["", ""])


@pytest.mark.slow
def test_a_first_process_that_was_killed_is_reported(tmp_path: Path) -> None:
    statuses, messages = run_two(tmp_path, "if rank == 0: os.kill(os.getpid(), signal.SIGKILL)\n    distributed.barrier()")
    assert statuses == [-signal.SIGKILL, 2]
    assert messages[1].count("error: ") == 1 and "it may have run out of memory" in messages[1]


@pytest.mark.slow
def test_a_broken_image_of_the_second_process_ends_an_evaluation(tmp_path: Path, scenes: Path) -> None:
    (scenes / "JPEGImages" / "val_00001.jpg").write_text("not an image")
    result = call(tmp_path, "eval", *TINY, "trainer=ddp_cpu", f"data.root={scenes}", "images_to_save=0")
    expect_one_sentence(result, "cannot read the image", "val_00001.jpg")


@pytest.mark.slow
def test_a_broken_image_of_the_first_process_ends_a_training(tmp_path: Path, scenes: Path) -> None:
    images = sorted((scenes / "JPEGImages").glob("train_*.jpg"))
    draws = NumberedDraws(images, seed=0, batch=2)
    own, others = ({draws.image(number) for number in numbers} for numbers in ((0, 1), (2, 3)))
    images[min(own - others)].write_text("not an image")
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
