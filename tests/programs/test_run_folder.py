"""The folders that programs write to: only `output` if it is set, and a sentence if a folder cannot be written."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.full_disk import limit_files
from support.programs import SMALL_IMAGES, SMALL_STUDENT, command, draw_photos, environment, expect_one_sentence

from maskclip.programs.common import RunFolder


def run(tmp_path: Path, program: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a checkout whose outputs/ cannot be written, from an empty working directory."""
    (tmp_path / "outputs").touch()
    (tmp_path / "work").mkdir(exist_ok=True)
    line = command(program, f"paths.outputs={tmp_path}/outputs", *overrides)
    return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path / "work", env=environment(tmp_path), timeout=300)


def test_many_processes_check_the_same_folder_at_once(tmp_path: Path) -> None:
    """As the processes of a run under torchrun or SLURM do."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: RunFolder().check(tmp_path / "out", True), range(400)))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "outputs").touch()
    with pytest.raises(SystemExit) as end:
        RunFolder().check(tmp_path / "outputs" / "run", True)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: cannot write {tmp_path}/outputs") and "paths.outputs=" in message


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("segment",), ("eval", "-m")])
def test_programs_check_their_run_folder(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    expect_one_sentence(run(tmp_path, *arguments), "cannot write", f"{tmp_path}/outputs", "paths.outputs=")


@pytest.mark.slow
def test_segment_and_embed_text_write_to_their_output_only(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 2)
    segmented = run(tmp_path, "segment", *SMALL_IMAGES, f"input={tmp_path}/photos", f"output={tmp_path}/s")
    assert segmented.returncode == 0 and len(list((tmp_path / "s" / "masks").iterdir())) == 2, segmented.stderr
    embedded = run(tmp_path, "embed_text", "model=maskclip_textures", "classes=textures", f"output={tmp_path}/words.safetensors")
    assert embedded.returncode == 0 and (tmp_path / "words.safetensors").is_file(), embedded.stderr
    assert list((tmp_path / "work").iterdir()) == []
    assert not list((tmp_path / "s").rglob("*.log")) and not (tmp_path / "s" / ".hydra").exists()


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train", "export", "embed_text"])
def test_a_full_disk_leaves_no_partial_file(tmp_path: Path, textures_root: Path, trained: Path, program: str) -> None:
    """Files of more than 8 kB cannot be written. Hydra's files are written to a folder with enough room."""
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=1", "trainer.val_check_interval=1")
    lines = {
        "train": (*settings, "hydra.output_subdir=null", f"hydra.run.dir={tmp_path}/new"),
        "export": (f"checkpoint={trained}/checkpoints/last.ckpt", f"output={tmp_path}/new"),
        "embed_text": (
            "model=maskclip_textures",
            "classes=context59",
            "model.templates=simple",
            "model.cache=null",
            f"output={tmp_path}/new/words.safetensors",
        ),
    }
    line, options = command(program, *lines[program]), {"cwd": tmp_path, "env": environment(tmp_path), "timeout": 300}
    result = subprocess.run(line, capture_output=True, text=True, preexec_fn=limit_files, **options)
    expect_one_sentence(result, f"cannot write {tmp_path}/new/", "File too large")
    assert [path for path in (tmp_path / "new").rglob("*") if path.name.endswith((".partial", ".ckpt", ".safetensors"))] == []
