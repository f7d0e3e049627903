"""The programs as people call them: in a process of their own, from another folder, with good and bad input."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.programs import SMALL_PICTURES, SMALL_STUDENT, TINY, call, command, draw_photos, environment, expect_one_sentence

from maskclip.clip import STRATEGIES, load_clip
from maskclip.files import HOST
from maskclip.textures.dataset import write_textures


@pytest.mark.slow
def test_eval_writes_a_card_a_table_and_pictures(tmp_path: Path, textures_root: Path) -> None:
    result = call(tmp_path, "eval", *TINY, f"data.root={textures_root}", "images_to_save=2")
    assert result.returncode == 0, result.stderr
    assert "mIoU" in result.stdout and "brick wall" in result.stdout
    card = json.loads((tmp_path / "out" / "results.json").read_text())
    needed = "method data miou iou pixel_accuracy seen unseen harmonic images seconds device"
    needed += " confusion_sha256 weights_sha256 classes words words_of protocol config versions commit"
    assert set(needed.split()) <= set(card)
    assert card["images"] == 5 and card["data"] == "textures" and len(card["iou"]) == 13
    assert card["config"]["model"]["architecture"] == "maskclip-tiny" and card["words_of"] == "own"
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 2


@pytest.mark.slow
def test_two_processes_count_every_pixel_once(tmp_path: Path, textures_root: Path) -> None:
    for name, trainer in (("one", "cpu"), ("two", "ddp_cpu")):
        result = call(
            tmp_path,
            "eval",
            *TINY,
            f"trainer={trainer}",
            f"data.root={textures_root}",
            f"paths.output={tmp_path}/{name}",
            "images_to_save=0",
        )
        assert result.returncode == 0, result.stderr
    one, two = (np.load(tmp_path / name / "confusion.npy") for name in ("one", "two"))
    assert json.loads((tmp_path / "two" / "results.json").read_text())["processes"] == 2
    assert np.array_equal(one, two) and one.sum() > 0


@pytest.mark.slow
def test_training_survives_a_kill(tmp_path: Path, textures_root: Path) -> None:
    """SIGKILL in the middle; resuming goes on at the stored step and ends with the weights of an undisturbed run."""
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
def test_training_on_two_processes(tmp_path: Path, textures_root: Path) -> None:
    """It runs, ends with a card, and validates with the same network everywhere, though 5 images do not divide by 2."""
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=3", "trainer.val_check_interval=1")
    result = call(tmp_path, "train", *settings, "trainer=ddp_cpu", "data.batch_size=4", f"paths.output={tmp_path}/two")
    assert result.returncode == 0, result.stderr
    trained = json.loads((tmp_path / "two" / "results.json").read_text())
    checkpoint = f"model.checkpoint={tmp_path}/two/checkpoints/last.ckpt"
    again = call(tmp_path, "eval", "model=student", checkpoint, "data=textures", "trainer=cpu", f"data.root={textures_root}")
    assert again.returncode == 0, again.stderr
    alone = json.loads((tmp_path / "out" / "results.json").read_text())
    assert trained["iou"] == alone["iou"] and trained["weights_sha256"] == alone["weights_sha256"]


@pytest.mark.slow
def test_a_student_is_evaluated_and_segments_without_clip(tmp_path: Path, textures_root: Path) -> None:
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=2", "trainer.val_check_interval=2")
    trained = call(tmp_path, "train", *settings, f"paths.output={tmp_path}/student")
    assert trained.returncode == 0, trained.stderr
    assert "transductive" in trained.stdout
    checkpoint = f"model.checkpoint={tmp_path}/student/checkpoints/last.ckpt"
    evaluated = call(tmp_path, "eval", "model=student", checkpoint, "data=textures", "trainer=cpu", f"data.root={textures_root}")
    assert evaluated.returncode == 0, evaluated.stderr
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("student", "out"))
    assert first["iou"] == second["iou"] and first["method"] == second["method"] == "maskclip+ zero-shot"
    exported = call(tmp_path, "export", f"checkpoint={tmp_path}/student/checkpoints/last.ckpt", f"output={tmp_path}/exported")
    assert exported.returncode == 0 and "13 classes" in exported.stdout, exported.stderr
    checkpoint = f"model.checkpoint={tmp_path}/exported"
    again = call(tmp_path, "eval", "model=student", checkpoint, "data=textures", "trainer=cpu", f"data.root={textures_root}")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["iou"] == first["iou"]
    segmented = call(
        tmp_path, "segment", "model=student", checkpoint, f"input={textures_root}/JPEGImages/val_00000.jpg", f"output={tmp_path}/s"
    )
    assert segmented.returncode == 0, segmented.stderr
    assert (tmp_path / "s" / "masks" / "val_00000.jpg.png").is_file()


@pytest.mark.slow
def test_segment_a_folder_with_a_broken_file(tmp_path: Path) -> None:
    photos = tmp_path / "my photos"
    (photos / "sub").mkdir(parents=True)
    Image.new("RGB", (50, 30), (200, 0, 0)).save(photos / "a.jpg")
    Image.new("L", (20, 33)).save(photos / "a.png")
    Image.new("RGBA", (31, 17)).save(photos / "sub" / "ü.PNG")
    (photos / "broken.jpg").write_text("no picture")
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


def pixels_below(folder: Path) -> dict[str, np.ndarray]:
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in folder.rglob("*.[pj][np]g")}


def single_threaded(tmp_path: Path) -> dict[str, str]:
    """With as many threads in each run, as two processes would share the cores: results are the same to the bit."""
    return environment(tmp_path) | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def segment(tmp_path: Path, *overrides: str, **options: Any) -> subprocess.CompletedProcess[str]:
    line = command("segment", *SMALL_PICTURES, f"hydra.run.dir={tmp_path}/log", *overrides)
    return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=single_threaded(tmp_path), timeout=300, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("end", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)])
def test_segmenting_survives_a_kill(tmp_path: Path, end: signal.Signals, status: int) -> None:
    """A signal in the middle: nothing is half-written, and the second run does what is left and only that."""
    draw_photos(tmp_path / "photos", 200)
    line = command("segment", *SMALL_PICTURES, "input=photos", f"hydra.run.dir={tmp_path}/log", "output=s", "soft=[confidence]")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(line, cwd=tmp_path, env=single_threaded(tmp_path), **quiet)
    masks, start = tmp_path / "s" / "masks", time.time()
    while len(list(masks.glob("*.png")) if masks.is_dir() else []) < 30 and time.time() - start < 120:
        time.sleep(0.01)
    process.send_signal(end)
    assert process.wait(timeout=60) == status
    (masks / f".old.png.{HOST}-{process.pid}.partial").write_text("half")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.[pj][np]g") if not path.name.startswith(("legend", "."))}
    complete = {path.stem for path in masks.glob("[0-9]*.png")}
    for folder in ("overlays", "confidence"):
        complete &= {path.stem for path in (tmp_path / "s" / folder).glob("[0-9]*")}
    assert 20 <= len(complete) < 200
    again = segment(tmp_path, "input=photos", "output=s", "soft=[confidence]")
    assert again.returncode == 0, again.stderr
    assert f"{len(complete)} of 200 were there already" in again.stdout and "200 of 200 images segmented" in again.stdout
    assert all(path.stat().st_mtime_ns == written for path, written in before.items() if path.stem in complete)
    assert not list((tmp_path / "s").rglob(".*"))
    assert segment(tmp_path, "input=photos", "output=whole", "soft=[confidence]").returncode == 0
    resumed, whole = pixels_below(tmp_path / "s"), pixels_below(tmp_path / "whole")
    assert len(resumed) == 601 and resumed.keys() == whole.keys()
    assert all(np.array_equal(pixels, whole[name]) for name, pixels in resumed.items())


@pytest.mark.slow
def test_segmenting_on_two_processes(tmp_path: Path) -> None:
    """The same files as on one, each written once, the broken ones of both listed; then with more processes than pictures."""
    draw_photos(tmp_path / "photos", 11)
    for number in (4, 5):
        (tmp_path / "photos" / f"{number:03d}.png").write_text("no picture")
    wanted = ("input=photos", "soft=[confidence,entropy]", "top=2", "features=true")
    for name, trainer in (("one", "cpu"), ("two", "ddp_cpu")):
        result = segment(tmp_path, *wanted, f"output={name}", f"trainer={trainer}")
        assert result.returncode == 2 and "9 of 11 images segmented" in result.stdout, result.stderr
        assert result.stderr.count("error: ") == 1 and "004.png" in result.stderr and "005.png" in result.stderr
    one, two = (pixels_below(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 9 * 4 + 1 and one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    for path in (tmp_path / "one").rglob("*.npz"):
        with np.load(path) as a, np.load(tmp_path / "two" / path.relative_to(tmp_path / "one")) as b:
            assert all(np.array_equal(a[key], b[key]) for key in a)
    assert (tmp_path / "one" / "broken.txt").read_text() == (tmp_path / "two" / "broken.txt").read_text()
    draw_photos(tmp_path / "mended", 6)
    for number in (4, 5):
        (tmp_path / "mended" / f"{number:03d}.png").replace(tmp_path / "photos" / f"{number:03d}.png")
    fed_back = segment(tmp_path, *wanted[1:], "input=two/broken.txt", "output=two", "trainer=ddp_cpu", "trainer.devices=3")
    assert fed_back.returncode == 0 and "2 of 2 images segmented" in fed_back.stdout, fed_back.stderr
    assert len(list((tmp_path / "two" / "masks").iterdir())) == 11 and not (tmp_path / "two" / "broken.txt").exists()
    refused = segment(tmp_path, "input=photos", "output=two", "trainer=ddp_cpu", "protocol.short_side=32")
    expect_one_sentence(refused, "protocol.short_side was 48, is 32", "overwrite=true")


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_segmenting_where_the_disk_does_not_take_it(tmp_path: Path, trainer: str) -> None:
    """No file may be longer than 8 kB here: the run stops with a sentence and leaves no half file."""
    draw_photos(tmp_path / "photos", 12)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    wanted = ("input=photos", "output=s", "overlays=false", "features=true", f"trainer={trainer}")
    assert segment(tmp_path, *wanted, "output=warm").returncode == 0  # caches are larger than that
    result = segment(tmp_path, *wanted, preexec_fn=limited)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "cannot write s/features/0" in result.stderr and "File too large" in result.stderr
    assert not list((tmp_path / "s" / "features").iterdir())


@pytest.mark.slow
def test_segmenting_says_what_it_leaves_out(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "drawing.xcf").write_text("")
    (tmp_path / "photos" / "notes.txt").write_text("")
    pages = [Image.new("L", (64, 48), 80 * page) for page in range(3)]
    pages[0].save(tmp_path / "photos" / "scan.tif", save_all=True, append_images=pages[1:])
    first = segment(tmp_path, "input=photos", "output=photos/out")
    assert first.returncode == 2 and "3 of 3 images segmented" in first.stdout, first.stderr
    assert "left out: images in formats that cannot be read: 1 .xcf" in first.stdout and "not images: 1 .txt" in first.stdout
    assert "files with several pages: 1, such as scan.tif; only the first" in first.stdout
    assert first.stderr.count("error: ") == 1 and "images in formats that cannot be read were left out: 1 .xcf" in first.stderr
    (tmp_path / "photos" / "drawing.xcf").unlink()
    again = segment(tmp_path, "input=photos", "output=photos/out", "pages=all")
    assert again.returncode == 0 and "3 of 5 were there already" in again.stdout and "5 of 5 images segmented" in again.stdout, again.stderr
    assert "left out: outputs of earlier runs: photos/out" in again.stdout
    assert (tmp_path / "photos" / "out" / "masks" / "scan.tif.page-0003.png").is_file()


@pytest.mark.slow
def test_segmenting_with_other_settings_is_refused(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 2)
    assert segment(tmp_path, "input=photos", "output=s").returncode == 0
    expect_one_sentence(
        segment(tmp_path, "input=photos", "output=s", "model.key_smoothing=0.8"), "model.key_smoothing was null, is 0.8", "overwrite=true"
    )
    anew = segment(tmp_path, "input=photos/*.png", "output=s", "model.key_smoothing=0.8", "overwrite=true")
    assert anew.returncode == 0 and "already" not in anew.stdout, anew.stderr


@pytest.mark.slow
def test_more_classes_than_eight_bits_hold(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("".join(f"thing {i}, item {i}\n" for i in range(300)))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    settings = (f"input={tmp_path}/a.png", f"output={tmp_path}/s", "model.templates=simple")
    result = call(tmp_path, "segment", "model=maskclip_textures", f"classes.names={tmp_path}/words.txt", *settings)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "s" / "masks" / "a.png.png") as mask:
        assert mask.mode == "I;16" and mask.size == (90, 60)
    assert json.loads((tmp_path / "s" / "legend.json").read_text())["classes"][299]["name"] == "thing 299"


@pytest.mark.slow
def test_text_embeddings_travel(tmp_path: Path, textures_root: Path) -> None:
    """Words embedded by one run serve another that has no text tower and no cache, with the same result."""
    settings = (*TINY, f"data.root={textures_root}", "images_to_save=0")
    assert call(tmp_path, "eval", *settings).returncode == 0
    own = json.loads((tmp_path / "out" / "results.json").read_text())
    file = tmp_path / "words.safetensors"
    embedded = call(tmp_path, "embed_text", "model=maskclip_textures", "classes=textures", f"output={file}")
    assert embedded.returncode == 0 and "14 words of 13 classes" in embedded.stdout, embedded.stderr
    visual = {k: v for k, v in load_clip("maskclip-tiny", "textures").state_dict().items() if k.startswith("visual.")}
    torch.save(visual, tmp_path / "visual.pt")
    assert call(tmp_path, "eval", *settings, f"model.text_embeddings={file}", f"model.pretrained={tmp_path}/visual.pt").returncode == 0
    other = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (own["iou"], own["weights_sha256"]) == (other["iou"], other["weights_sha256"])


@pytest.mark.slow
def test_a_sweep_ends_in_one_table(tmp_path: Path, textures_root: Path) -> None:
    settings = (*TINY, f"data.root={textures_root}", "images_to_save=0", f"hydra.sweep.dir={tmp_path}/sweep")
    result = call(tmp_path, "eval", "sweep=strategies", *settings)
    assert result.returncode == 0, result.stderr
    table = (tmp_path / "sweep" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in table[2:]] == [name for name in STRATEGIES if name != "proxyclip"]
    assert "clearclip" in result.stdout.rpartition("run ")[2]


@pytest.mark.slow
def test_half_precision_clipped_and_accumulated(tmp_path: Path, textures_root: Path) -> None:
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=2", "trainer.val_check_interval=2", "data.batch_size=4")
    options = ("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1.0", "trainer.accumulate_grad_batches=2")
    result = call(tmp_path, "train", *settings, *options)
    assert result.returncode == 0, result.stderr
    training = json.loads((tmp_path / "out" / "results.json").read_text())["training"]
    assert training["steps"] == 2 and training["precision"] == "bf16-mixed"
    assert call(tmp_path, "export", f"checkpoint={tmp_path}/out/checkpoints/last.ckpt", f"output={tmp_path}/student").returncode == 0


@pytest.mark.slow
def test_any_strategy_teaches(tmp_path: Path, textures_root: Path) -> None:
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=2", "trainer.val_check_interval=2")
    result = call(tmp_path, "train", *settings, "teacher.strategy=naclip", "teacher.key_smoothing=0.8")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["provenance"]["teacher"]["method"] == "naclip + KS"


@pytest.mark.slow
def test_offline_with_cached_weights(tmp_path: Path, textures_root: Path) -> None:
    """Weights in Hugging Face's cache are found without a network; the file is made here, in the place and form of OpenAI's RN50."""
    place = tmp_path / "hub" / "hub" / "models--timm--resnet50_clip.openai"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    weights = place / "snapshots" / ("0" * 40) / "open_clip_model.safetensors"
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
    assert json.loads((tmp_path / "out" / "results.json").read_text())["images"] == 5


@pytest.mark.slow
def test_a_multirun_names_what_is_missing_and_runs_the_rest(tmp_path: Path, textures_root: Path) -> None:
    settings = (f"data.root={textures_root},{tmp_path}", f"hydra.sweep.dir={tmp_path}/sweep", "images_to_save=0")
    result = call(tmp_path, "eval", *TINY, *settings, "--multirun")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "error: no split file" in result.stderr
    assert (tmp_path / "sweep" / "0" / "results.json").is_file()


@pytest.mark.slow
def test_resuming_with_other_settings_is_refused(tmp_path: Path, textures_root: Path) -> None:
    settings = (*SMALL_STUDENT, f"data.root={textures_root}", "trainer.max_steps=1")
    assert call(tmp_path, "train", *settings).returncode == 0
    expect_one_sentence(call(tmp_path, "train", *settings, f"resume={tmp_path}/out", "task.lr=1"), "task.lr was 0.002, is 1")
    expect_one_sentence(call(tmp_path, "train", *settings, f"resume={tmp_path}/out", "seed=1"), "data.seed was 0, is 1")


@pytest.mark.slow
def test_a_finished_run_is_prolonged_but_not_with_other_images(tmp_path: Path) -> None:
    write_textures(tmp_path / "data", [(i, 2 * i, 3 * i) for i in range(13)], train=10, val=5, seed=1)
    settings = (*SMALL_STUDENT, f"data.root={tmp_path}/data", "trainer.val_check_interval=2", f"resume={tmp_path}/out")
    first = call(tmp_path, "train", *settings, "resume=null", "trainer.max_steps=2", "task.guided=1.0")
    assert first.returncode == 0, first.stderr
    longer = call(tmp_path, "train", *settings, "trainer.max_steps=4", "task.guided=1.0", f"paths.output={tmp_path}/longer")
    assert longer.returncode == 0, longer.stderr
    assert "Resuming at step 2 with trainer.max_steps=4 (was 2)" in longer.stdout
    card = json.loads((tmp_path / "longer" / "results.json").read_text())
    assert card["training"]["steps"] == 4
    rows = (tmp_path / "longer" / "metrics.csv").read_text().splitlines()
    assert dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))["test/miou"] == str(card["miou"])
    split = tmp_path / "data" / "ImageSets" / "Segmentation" / "train.txt"
    split.write_text("\n".join(split.read_text().splitlines()[8:]))
    refused = call(tmp_path, "train", *settings, "trainer.max_steps=4", "task.guided=1.0")
    expect_one_sentence(refused, "10 images, now there are 2 (missing: train_00000", "and 3 more")
    assert call(tmp_path, "train", *settings, "resume=null", "trainer.max_steps=4", "task.guided=1").returncode == 2


def test_without_data_one_sentence(tmp_path: Path) -> None:
    result = call(tmp_path, "eval", "model=maskclip_vit16", f"paths.data={tmp_path}/none")
    expect_one_sentence(result, f"no data in {tmp_path}/none/VOCdevkit/VOC2010", "python scripts/prepare_context.py")


def test_without_weights_one_sentence(tmp_path: Path, textures_root: Path) -> None:
    result = call(tmp_path, "eval", "model=maskclip_vit16", "data=textures", f"data.root={textures_root}")
    expect_one_sentence(result, "'openai' of ViT-B-16-quickgelu", "not on this machine", "model.pretrained=/path/to/file")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("train", "experiment=context_zero_shot", "paths.data=nowhere"), "no data in nowhere/VOCdevkit/VOC2010"),
        (("train", "experiment=textures_zero_shot", "data.root={textures}", "resume=nowhere.ckpt"), "nothing to resume"),
        (("train", "experiment=textures_zero_shot", "data.root={textures}", "data.labels=some"), "data.labels='some'"),
        (("segment", "model=maskclip_textures", "input={textures}"), "no class names"),
        (("segment", "model=maskclip_textures", "input=nowhere", "classes.names=[zebra]"), "no such file or folder: nowhere"),
        (("segment", "model=maskclip_textures", "classes.names=[zebra]"), "no input"),
        (("eval", "model=maskclip_textures", "data=textures", "data.root=nowhere"), "python scripts/prepare_textures.py"),
        (("train", "data=folder", "classes.names=[zebra]", "model@teacher=maskclip_textures"), "please give data.root=..."),
        (
            ("train", "experiment=textures_zero_shot", "data.root={textures}", "resume={textures}/JPEGImages/val_00000.jpg"),
            "not a checkpoint",
        ),
        (("segment", "model=maskclip_textures", "input=", "classes.names=[zebra]"), "no input"),
        (
            ("segment", "model=maskclip_textures", "input={textures}", "classes.names=[zebra]", "overwrite=no"),
            "overwrite=no: give true or false",
        ),
        (("segment", "model=maskclip_textures", "input={textures}", "classes.names=[zebra]", "masks=no"), "masks=no: give true or false"),
        (("segment", "model=maskclip_textures", "input={textures}", "classes.names=[zebra]", "output=null"), "output=null"),
        (("segment", "model=maskclip_textures", "input={textures}", "classes.names=[zebra]", "pages=2"), "pages=2: give first or all"),
        (("segment", "model=maskclip_textures", "input={textures}", "classes.names=[zebra]", "output=/dev/null/x"), "/dev/null"),
        (("eval", "data=folder", "data.root=.", "classes.names=[zebra]", "model=maskclip_textures"), "nothing to score without masks"),
        (("segment", "model=maskclip_textures", "input={textures}", "classes.names=[zebra]", "trainer=gpu"), "gpu"),
        (("eval", "model=maskclip_textures", "data=textures", "data.root={textures}", "data.masks=x/%.png"), "no such mask"),
        (("eval", "model=student", "model.checkpoint=nowhere", "data=textures", "data.root={textures}"), "no checkpoint nowhere"),
        (
            ("eval", "model=maskclip_textures", "model.architecture=ViT-Z", "data=textures", "data.root={textures}"),
            "unknown CLIP architecture",
        ),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, textures_root: Path, arguments: tuple[str, ...], part: str) -> None:
    expect_one_sentence(call(tmp_path, *(argument.format(textures=textures_root) for argument in arguments)), part)
