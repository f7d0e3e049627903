"""Training, evaluation, export and embedding of words: the files that they write, and runs that are killed or distributed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from support.in_process import run
from support.programs import SMALL_STUDENT, TINY, call, command, environment, expect_one_sentence

from maskclip.clip.loading import load_clip
from maskclip.clip.strategies import STRATEGIES
from maskclip.textures.dataset import write_textures


def read_card(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return card


def test_an_evaluation_writes_a_card_a_table_and_images(tmp_path: Path, textures_root: Path) -> None:
    result = run(tmp_path, "eval", *TINY, f"data.root={textures_root}", "images_to_save=2")
    assert result.returncode == 0, result.stderr
    assert "mIoU" in result.stdout and "brick wall" in result.stdout
    assert "evaluation: 100%" in result.stdout and "DataLoader" not in result.stdout.rpartition("\r")[2]
    card = read_card(tmp_path / "out")
    keys = "method data miou iou pixel_accuracy seen unseen harmonic images seconds device"
    keys += " confusion_sha256 weights_sha256 classes words words_of protocol config versions commit"
    assert set(keys.split()) <= set(card)
    assert card["images"] == 5 and card["data"] == "textures" and len(card["iou"]) == 13
    assert card["config"]["model"]["architecture"] == "maskclip-tiny" and card["words_of"] == "own"
    assert len(list((tmp_path / "out" / "saved_images").glob("*.png"))) == 2


@pytest.mark.slow
def test_a_student_is_evaluated_exported_and_segments(trained: Path, tmp_path: Path, textures_root: Path) -> None:
    card = read_card(trained)
    assert "Transductive" in (trained / "stdout.txt").read_text() and card["method"] == "maskclip+ zero-shot"
    exported = run(tmp_path, "export", f"checkpoint={trained}/checkpoints/last.ckpt", f"output={tmp_path}/exported")
    assert exported.returncode == 0 and "13 classes" in exported.stdout, exported.stderr
    student = ("model=student", f"model.checkpoint={tmp_path}/exported", "trainer=cpu")
    evaluated = run(tmp_path, "eval", *student, "data=textures", f"data.root={textures_root}")
    assert evaluated.returncode == 0, evaluated.stderr
    assert read_card(tmp_path / "out")["iou"] == card["iou"]
    segmented = run(tmp_path, "segment", *student, f"input={textures_root}/JPEGImages/val_00000.jpg", "output=s")
    assert segmented.returncode == 0, segmented.stderr
    assert (tmp_path / "s" / "masks" / "val_00000.jpg.png").is_file()


@pytest.mark.slow
def test_resuming_with_other_settings_is_an_error(trained: Path, tmp_path: Path, textures_root: Path) -> None:
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=2", "trainer.val_check_interval=2", f"resume={trained}")
    expect_one_sentence(run(tmp_path, "train", *settings, "task.lr=1", "seed=1"), "task.lr was 0.002, is 1", "data.seed was 0, is 1")


@pytest.mark.slow
def test_a_finished_run_is_extended_but_not_with_other_images(tmp_path: Path) -> None:
    write_textures(tmp_path / "data", [(i, 2 * i, 3 * i) for i in range(13)], train=10, val=5, seed=1)
    settings = (*SMALL_STUDENT, f"data.root={tmp_path}/data", "trainer.val_check_interval=2", "task.guided=1.0")
    first = run(tmp_path, "train", *settings, "trainer.max_steps=2")
    assert first.returncode == 0, first.stderr
    settings += ("trainer.max_steps=4", f"resume={tmp_path}/out")
    longer = run(tmp_path, "train", *settings, f"paths.output={tmp_path}/longer")
    assert longer.returncode == 0, longer.stderr
    assert "Resuming at step 2 with trainer.max_steps=4 (was 2)" in longer.stdout
    card = read_card(tmp_path / "longer")
    assert card["training"]["steps"] == 4
    rows = (tmp_path / "longer" / "metrics.csv").read_text().splitlines()
    assert dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))["test/miou"] == str(card["miou"])
    split = tmp_path / "data" / "ImageSets" / "Segmentation" / "train.txt"
    split.write_text("\n".join(split.read_text().splitlines()[8:]))
    refused = run(tmp_path, "train", *settings)
    expect_one_sentence(refused, "10 images, but the data set has 2 (missing: train_00000", "and 3 more")


@pytest.mark.slow
def test_precision_clipping_accumulation_and_another_strategy_of_the_teacher(tmp_path: Path, textures_root: Path) -> None:
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=2", "trainer.val_check_interval=2", "data.batch_size=4")
    options = ("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1.0", "trainer.accumulate_grad_batches=2")
    result = run(tmp_path, "train", *settings, *options, "teacher.strategy=naclip", "teacher.key_smoothing=0.8")
    assert result.returncode == 0, result.stderr
    card = read_card(tmp_path / "out")
    assert card["training"]["steps"] == 2 and card["training"]["precision"] == "bf16-mixed"
    assert card["provenance"]["teacher"]["method"] == "naclip + KS"


@pytest.mark.slow
def test_training_survives_a_kill(tmp_path: Path, textures_root: Path) -> None:
    """After SIGKILL in the middle, a resumed run has the weights of an uninterrupted one."""
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=8", "trainer.val_check_interval=4", "task.guided=5")
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        command("train", *settings, f"hydra.run.dir={folder}"),
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint, start = folder / "checkpoints" / "last.ckpt", time.time()
    while not checkpoint.exists() and time.time() - start < 120:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 1 <= stopped < 8
    assert call(tmp_path, "train", *settings, f"resume={folder}", f"paths.output={tmp_path}/resumed").returncode == 0
    assert call(tmp_path, "train", *settings, f"paths.output={tmp_path}/whole").returncode == 0
    resumed, whole = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("resumed", "whole"))
    assert resumed["global_step"] == whole["global_step"] == 8
    assert all(torch.equal(value, whole["state_dict"][name]) for name, value in resumed["state_dict"].items())


@pytest.mark.slow
def test_two_processes_train_and_validate_the_same_network(tmp_path: Path, textures_root: Path) -> None:
    """5 images of validation are not divisible by 2."""
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=3", "trainer.val_check_interval=1")
    result = call(tmp_path, "train", *settings, "trainer=ddp_cpu", "data.batch_size=4", f"paths.output={tmp_path}/two")
    assert result.returncode == 0, result.stderr
    trained = read_card(tmp_path / "two")
    student = ("model=student", f"model.checkpoint={tmp_path}/two/checkpoints/last.ckpt", "data=textures", f"data.root={textures_root}")
    again = run(tmp_path, "eval", *student, "trainer=cpu", threads=1)
    assert again.returncode == 0, again.stderr
    alone = read_card(tmp_path / "out")
    assert trained["iou"] == alone["iou"] and trained["weights_sha256"] == alone["weights_sha256"]


@pytest.mark.slow
def test_two_processes_count_each_pixel_once(tmp_path: Path, textures_root: Path) -> None:
    one = run(tmp_path, "eval", *TINY, f"data.root={textures_root}", "images_to_save=0", f"paths.output={tmp_path}/one", threads=1)
    two = call(tmp_path, "eval", *TINY, f"data.root={textures_root}", "images_to_save=0", f"paths.output={tmp_path}/two", "trainer=ddp_cpu")
    assert one.returncode == two.returncode == 0, two.stderr
    counts, counts_of_two = (np.load(tmp_path / name / "confusion.npy") for name in ("one", "two"))
    assert read_card(tmp_path / "two")["processes"] == 2
    assert np.array_equal(counts, counts_of_two) and counts.sum() > 0


@pytest.mark.slow
def test_embedded_words_replace_the_text_tower(tmp_path: Path, textures_root: Path) -> None:
    """A model without text tower and cache has the same scores with the words that another run embedded."""
    settings, file = (*TINY, f"data.root={textures_root}", "images_to_save=0"), tmp_path / "words.safetensors"
    assert run(tmp_path, "eval", *settings).returncode == 0
    own = read_card(tmp_path / "out")
    embedded = run(tmp_path, "embed_text", "model=maskclip_textures", "classes=textures", f"output={file}")
    assert embedded.returncode == 0 and "14 words of 13 classes" in embedded.stdout, embedded.stderr
    visual = {k: v for k, v in load_clip("maskclip-tiny", "textures").state_dict().items() if k.startswith("visual.")}
    torch.save(visual, tmp_path / "visual.pt")
    result = run(tmp_path, "eval", *settings, f"model.text_embeddings={file}", f"model.pretrained={tmp_path}/visual.pt", "model.cache=null")
    assert result.returncode == 0, result.stderr
    other = read_card(tmp_path / "out")
    assert (own["iou"], own["weights_sha256"]) == (other["iou"], other["weights_sha256"])


@pytest.mark.slow
def test_weights_in_the_cache_of_hugging_face_need_no_network(tmp_path: Path, textures_root: Path) -> None:
    """The file has the place and form of OpenAI's RN50, with random weights."""
    folder = tmp_path / "hub" / "hub" / "models--timm--resnet50_clip.openai"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    weights = folder / "snapshots" / ("0" * 40) / "open_clip_model.safetensors"
    save_file(open_clip.create_model("RN50-quickgelu").state_dict(), weights)
    settings = (
        "model=maskclip_rn50",
        "model.templates=simple",
        "data=textures",
        f"data.root={textures_root}",
        "trainer=cpu",
        "images_to_save=0",
    )
    result = call(tmp_path, "eval", *settings)
    weights.unlink()  # 400 MB
    assert result.returncode == 0, result.stderr
    assert read_card(tmp_path / "out")["images"] == 5


@pytest.mark.slow
def test_a_sweep_prints_and_writes_one_table(tmp_path: Path, textures_root: Path) -> None:
    settings = (*TINY, f"data.root={textures_root}", "images_to_save=0", f"hydra.sweep.dir={tmp_path}/sweep")
    result = call(tmp_path, "eval", "sweep=strategies", *settings)
    assert result.returncode == 0, result.stderr
    table = (tmp_path / "sweep" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in table[2:]] == [name for name in STRATEGIES if name != "proxyclip"]
    assert str(tmp_path / "sweep" / "table.md") in result.stdout


@pytest.mark.slow
def test_a_multirun_finishes_the_other_jobs_after_an_error(tmp_path: Path, textures_root: Path) -> None:
    settings = (f"data.root={tmp_path},{textures_root}", f"hydra.sweep.dir={tmp_path}/sweep", "images_to_save=0")
    result = call(tmp_path, "eval", *TINY, *settings, "--multirun")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "error: no split file" in result.stderr
    assert (tmp_path / "sweep" / "1" / "results.json").is_file()
