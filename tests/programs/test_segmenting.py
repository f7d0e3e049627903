"""Segmenting a folder of images: broken files, runs that are killed and resumed, two processes, a full disk."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only
from support.full_disk import limit_files
from support.in_process import run
from support.programs import SMALL_IMAGES, call, command, draw_photos, environment, expect_one_sentence

from maskclip.files import HOST
from maskclip.programs.segmenting import printed_if_slow


def segment(folder: Path, *overrides: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, with one thread, so that results are bit-equal to those of `segment_here`."""
    line = command("segment", *SMALL_IMAGES, *overrides)
    return subprocess.run(line, capture_output=True, text=True, cwd=folder, env=one_thread(folder), timeout=300, **options)


def segment_here(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "segment", *SMALL_IMAGES, *overrides, threads=1)


def one_thread(folder: Path) -> dict[str, str]:
    return environment(folder) | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def read_images(folder: Path) -> dict[str, np.ndarray]:
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in folder.rglob("*.[pj][np]g")}


def test_a_folder_with_a_broken_file(tmp_path: Path) -> None:
    photos = tmp_path / "my photos"
    (photos / "sub").mkdir(parents=True)
    Image.new("RGB", (50, 30), (200, 0, 0)).save(photos / "a.jpg")
    Image.new("L", (20, 33)).save(photos / "a.png")
    Image.new("RGBA", (31, 17)).save(photos / "sub" / "ü.PNG")
    (photos / "broken.jpg").write_text("not an image")
    result = call(
        tmp_path,
        "segment",
        "model=maskclip_textures",
        f"input='{photos}'",
        f"output={tmp_path}/s",
        "classes.names=[zebra,brick wall]",
        "+classes.prompts={zebra: [zebra, leopard]}",
    )
    assert result.returncode == 2 and "broken.jpg" in result.stderr and "3 of 4 images segmented" in result.stdout
    masks = {path.relative_to(tmp_path / "s" / "masks").as_posix(): Image.open(path) for path in (tmp_path / "s" / "masks").rglob("*.png")}
    assert {name: mask.size for name, mask in masks.items()} == {"a.jpg.png": (50, 30), "a.png.png": (20, 33), "sub/ü.PNG.png": (31, 17)}
    assert all(mask.mode == "P" and np.asarray(mask).max() <= 1 for mask in masks.values())
    assert len(list((tmp_path / "s" / "overlays").rglob("*.jpg"))) == 3
    legend = json.loads((tmp_path / "s" / "legend.json").read_text())
    assert [entry["name"] for entry in legend["classes"]] == ["zebra", "brick wall"]


def test_files_that_are_left_out_are_listed(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "drawing.xcf").write_text("")
    (tmp_path / "photos" / "notes.txt").write_text("")
    pages = [Image.new("L", (64, 48), 80 * page) for page in range(3)]
    pages[0].save(tmp_path / "photos" / "scan.tif", save_all=True, append_images=pages[1:])
    first = segment_here(tmp_path, "input=photos", "output=photos/out")
    assert "3 of 3 images segmented" in first.stdout
    assert "left out: images in formats that cannot be read: 1 .xcf" in first.stdout and "not images: 1 .txt" in first.stdout
    assert "only the first page was segmented of 1 files with several pages, such as scan.tif" in first.stdout
    expect_one_sentence(first, "images in formats that cannot be read were left out: 1 .xcf")
    (tmp_path / "photos" / "drawing.xcf").unlink()
    again = segment_here(tmp_path, "input=photos", "output=photos/out", "pages=all")
    assert again.returncode == 0 and "skipping 3 of 5 images" in again.stdout and "5 of 5 images segmented" in again.stdout, again.stderr
    assert "left out: outputs of earlier runs: photos/out" in again.stdout
    assert (tmp_path / "photos" / "out" / "masks" / "scan.tif.page-0003.png").is_file()


@pytest.mark.slow
def test_other_settings_need_another_output_or_overwrite(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 2)
    assert segment_here(tmp_path, "input=photos", "output=s").returncode == 0
    refused = segment_here(tmp_path, "input=photos", "output=s", "model.key_smoothing=0.8")
    expect_one_sentence(refused, "model.key_smoothing was null, is 0.8", "overwrite=true")
    overwritten = segment_here(tmp_path, "input=photos/*.png", "output=s", "model.key_smoothing=0.8", "overwrite=true")
    assert overwritten.returncode == 0 and "skipping" not in overwritten.stdout, overwritten.stderr


@pytest.mark.slow
def test_more_than_254_classes_are_16_bit(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("".join(f"thing {i}, item {i}\n" for i in range(300)))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    settings = ("model=maskclip_textures", "classes.names=words.txt", "model.templates=simple", "input=a.png", "output=s")
    result = run(tmp_path, "segment", *settings)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "s" / "masks" / "a.png.png") as mask:
        assert mask.mode == "I;16" and mask.size == (90, 60)
    assert json.loads((tmp_path / "s" / "legend.json").read_text())["classes"][299]["name"] == "thing 299"


@pytest.mark.slow
def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    """After SIGTERM, later SIGKILL, no file is partial, and the next run segments the remaining images and only these."""
    draw_photos(tmp_path / "photos", 200)
    settings = ("input=photos", "output=s", "soft=[confidence]")
    masks = tmp_path / "s" / "masks"
    for end, status, number in ((signal.SIGTERM, 143, 20), (signal.SIGKILL, -signal.SIGKILL, 60)):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command("segment", *SMALL_IMAGES, *settings), cwd=tmp_path, env=one_thread(tmp_path), **quiet)
        start = time.time()
        while len(list(masks.glob("[0-9]*.png")) if masks.is_dir() else []) < number and time.time() - start < 120:
            time.sleep(0.01)
        process.send_signal(end)
        assert process.wait(timeout=60) == status
    (masks / f".old.png.{HOST}-{process.pid}.partial").write_text("half")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("[0-9]*.[pj][np]g")}
    finished = {path.stem for path in masks.glob("[0-9]*.png")}
    for folder in ("overlays", "confidence"):
        finished &= {path.stem for path in (tmp_path / "s" / folder).glob("[0-9]*")}
    assert 50 <= len(finished) < 200
    again = segment_here(tmp_path, *settings)
    assert again.returncode == 0, again.stderr
    assert f"skipping {len(finished)} of 200 images" in again.stdout and "200 of 200 images segmented" in again.stdout
    assert all(path.stat().st_mtime_ns == written for path, written in before.items() if path.stem in finished)
    assert not list((tmp_path / "s").rglob(".*"))
    assert segment_here(tmp_path, "input=photos", "output=whole", "soft=[confidence]").returncode == 0
    resumed, whole = read_images(tmp_path / "s"), read_images(tmp_path / "whole")
    assert len(resumed) == 601 and resumed.keys() == whole.keys()
    assert all(np.array_equal(pixels, whole[name]) for name, pixels in resumed.items())


@pytest.mark.slow
def test_an_interrupted_run_ends_with_status_130(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 200)
    process = subprocess.Popen(
        command("segment", *SMALL_IMAGES, "input=photos", "output=s"),
        cwd=tmp_path,
        env=one_thread(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells start jobs in the background without it
    )
    start = time.time()
    while not list((tmp_path / "s").glob("masks/[0-9]*")) and time.time() - start < 120:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in messages and messages.rstrip().endswith("interrupted")
    assert not list((tmp_path / "s").rglob(".*"))


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(tmp_path: Path) -> None:
    """Each image once, the broken ones of both processes listed; then there are more processes than images."""
    draw_photos(tmp_path / "photos", 11)
    for number in (4, 5):
        (tmp_path / "photos" / f"{number:03d}.png").write_text("not an image")
    kinds = ("soft=[confidence,entropy]", "top=2", "features=true")
    one = segment_here(tmp_path, *kinds, "input=photos", "output=one")
    two = segment(tmp_path, *kinds, "input=photos", "output=two", "trainer=ddp_cpu")
    for result in (one, two):
        assert result.returncode == 2 and "9 of 11 images segmented" in result.stdout, result.stderr
        assert result.stderr.count("error: ") == 1 and "004.png" in result.stderr and "005.png" in result.stderr
    images, images_of_two = read_images(tmp_path / "one"), read_images(tmp_path / "two")
    assert len(images) == 9 * 4 + 1 and images.keys() == images_of_two.keys()
    assert all(np.array_equal(pixels, images_of_two[name]) for name, pixels in images.items())
    for path in (tmp_path / "one").rglob("*.npz"):
        with np.load(path) as a, np.load(tmp_path / "two" / path.relative_to(tmp_path / "one")) as b:
            assert all(np.array_equal(a[key], b[key]) for key in a)
    assert (tmp_path / "one" / "broken.txt").read_text() == (tmp_path / "two" / "broken.txt").read_text()
    draw_photos(tmp_path / "repaired", 6)
    for number in (4, 5):
        (tmp_path / "repaired" / f"{number:03d}.png").replace(tmp_path / "photos" / f"{number:03d}.png")
    repaired = segment(tmp_path, *kinds, "input=two/broken.txt", "output=two", "trainer=ddp_cpu", "trainer.devices=3")
    assert repaired.returncode == 0 and "2 of 2 images segmented" in repaired.stdout, repaired.stderr
    assert len(list((tmp_path / "two" / "masks").iterdir())) == 11 and not (tmp_path / "two" / "broken.txt").exists()
    refused = segment(tmp_path, "input=photos", "output=two", "trainer=ddp_cpu", "protocol.short_side=32")
    expect_one_sentence(refused, "protocol.short_side was 48, is 32", "overwrite=true")


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_files_that_the_disk_refuses_stop_the_run(tmp_path: Path, trainer: str) -> None:
    """Files of more than 8 kB cannot be written: the run stops with a sentence and leaves no partial file."""
    draw_photos(tmp_path / "photos", 12)
    settings = ("input=photos", "output=s", "overlays=false", "features=true", "model.cache=null", f"trainer={trainer}")
    result = segment(tmp_path, *settings, preexec_fn=limit_files)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "cannot write s/features/0" in result.stderr and "File too large" in result.stderr
    assert not list((tmp_path / "s" / "features").iterdir())


def test_a_message_is_printed_for_slow_blocks_by_the_first_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with printed_if_slow("slow", after=0.01):
        time.sleep(0.1)
    with printed_if_slow("quick", after=0.1):
        pass
    with pytest.raises(ZeroDivisionError), printed_if_slow("failed", after=0.1):
        _ = 1 / 0
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with printed_if_slow("not the first process", after=0.01):
        time.sleep(0.2)
    assert capsys.readouterr().out == "slow ...\n"
