"""Training: who labels when, what is stored, and that a resumed run is the run."""

from __future__ import annotations

import errno
import os
import socket
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from maskclip import InputError, MaskCLIP, Student, Vocabulary, load_student
from maskclip.data.datamodule import SegmentationData
from maskclip.functional import UNLABELLED, resize, upsample_logits
from maskclip.programs.resuming import check_resumable, image_list, write_image_list
from maskclip.tasks import MaskCLIPPlus

NETWORK: dict[str, Any] = {"encoder": "resnet18", "weights": None, "decoder_channels": 16, "encoder_depth": 3, "decoder_aspp_dropout": 0.0}


def make_data(root: Path, classes: Vocabulary, labels: str, **options: Any) -> SegmentationData:
    return SegmentationData(
        classes,
        root=str(root),
        images="JPEGImages/%.jpg",
        masks="SegmentationClass/%.png",
        train="ImageSets/Segmentation/train.txt",
        val="ImageSets/Segmentation/val.txt",
        labels=labels,
        augmentation={"crop": 64},
        batch_size=4,
        num_workers=0,
        **options,
    )


def make_task(tiny: MaskCLIP, labels: str = "seen", **options: Any) -> MaskCLIPPlus:
    torch.manual_seed(0)
    vocabulary = tiny.vocabulary
    classes = {"names": list(vocabulary.names), "prompts": dict(vocabulary.prompts), "unseen": list(vocabulary.unseen)}
    task = MaskCLIPPlus(classes, tiny.embedding_dim, NETWORK, labels, {}, provenance={"method": "test"}, **options)
    task.attach_teacher(tiny)
    return task


def make_trainer(folder: Path, steps: int, progress: bool = False, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=1000,
        default_root_dir=folder,
        **options,
    )


class Recorder(pl.Callback):
    """Who labelled at each step."""

    def __init__(self) -> None:
        self.phases: list[tuple[int, bool]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, MaskCLIPPlus)
        self.phases.append((trainer.global_step, pl_module.is_guided))


def test_the_teacher_fills_the_guided_phase(tiny: MaskCLIP, textures_root: Path) -> None:
    task = make_task(tiny)
    batch = next(iter(make_data(textures_root, tiny.vocabulary, "seen").train_dataloader()))
    image, given = batch["image"].float() / 255, batch["mask"]
    task.trainer = make_trainer(textures_root, 4)
    labels = task.fill(given, image, torch.empty(0))
    unseen = tiny.vocabulary.unseen_indices
    synonyms = {name: words for name, words in tiny.vocabulary.prompts.items() if name in tiny.vocabulary.unseen}
    words = Vocabulary(list(tiny.vocabulary.unseen), prompts=synonyms)
    only_unseen = MaskCLIP(tiny.clip, words, tiny.text_embeddings[tiny.vocabulary.rows(unseen)[0]])
    guesses = upsample_logits(only_unseen(image), (64, 64), (64, 64)).argmax(1)
    expected = torch.tensor(unseen)[guesses]
    assert torch.equal(labels[given == UNLABELLED], expected[given == UNLABELLED])
    assert torch.equal(labels[given != UNLABELLED], given[given != UNLABELLED])
    assert (given == UNLABELLED).any() and UNLABELLED not in labels


def test_the_teacher_may_look_into_the_mirror_too(tiny: MaskCLIP, textures_root: Path) -> None:
    """Then the labels of a mirrored crop are the mirrored labels, but where two classes tie; without it they are others."""
    image, given = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.full((2, 64, 64), UNLABELLED)
    agree = []
    for flip in (True, False):
        task = make_task(tiny, "none", flip=flip)
        task.trainer = make_trainer(textures_root, 4)
        labels, mirrored = (task.fill(given, pixels, torch.empty(0)) for pixels in (image, image.flip(-1)))
        agree.append((labels == mirrored.flip(-1)).float().mean().item())
    assert agree[0] > 0.999 > agree[1]


def test_the_student_fills_the_second_phase(tiny: MaskCLIP, textures_root: Path) -> None:
    task = make_task(tiny, guided=0)
    task.trainer = make_trainer(textures_root, 4)
    given = torch.full((1, 8, 8), UNLABELLED)
    logits = torch.randn(1, len(tiny.vocabulary), 8, 8, requires_grad=True)
    labels = task.fill(given, torch.rand(1, 3, 8, 8), logits)
    unseen = torch.tensor(tiny.vocabulary.unseen_indices)
    assert torch.equal(labels, unseen[logits[:, unseen].argmax(1)])
    assert not labels.requires_grad


@pytest.mark.parametrize(("guided", "expected"), [(0.5, 2), (1.0, 4), (0.0, 0), (3, 3), (0, 0)])
def test_phases_follow_the_optimiser(tiny: MaskCLIP, textures_root: Path, tmp_path: Path, guided: float, expected: int) -> None:
    recorder = Recorder()
    trainer = make_trainer(tmp_path, 4, callbacks=[recorder], accumulate_grad_batches=2)
    trainer.fit(make_task(tiny, guided=guided), make_data(textures_root, tiny.vocabulary, "seen"))
    assert [phase for step, phase in recorder.phases] == [step < expected for step in range(4) for _ in range(2)]


def test_a_leaked_label_is_fatal(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the data set leaks it"):
        make_trainer(tmp_path, 4).fit(make_task(tiny), make_data(textures_root, tiny.vocabulary, "all"))


def test_the_truth_is_for_the_log_alone(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    """The same weights to the bit with and without it; what is logged is the IoU of the labels with it, counted by hand."""
    weights, qualities = [], []
    for truth in (True, False):
        task, data = make_task(tiny, guided=0.5), make_data(textures_root, tiny.vocabulary, "seen", truth=truth)
        trainer = make_trainer(tmp_path, 2)
        trainer.fit(task, data)
        weights.append(task.student.state_dict())
        qualities.append(task.used_labels.confmat)
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert qualities[0].sum() > 0 and qualities[1].sum() == 0
    seen = torch.ones(len(tiny.vocabulary), dtype=torch.bool)
    seen[tiny.vocabulary.unseen_indices] = False
    assert qualities[0][seen].sum() == 0 == qualities[0][:, seen].sum(), "only pseudo labels are judged"


def test_labels_are_judged_where_there_are_any(tiny: MaskCLIP) -> None:
    task = make_task(tiny)
    a, b = tiny.vocabulary.unseen_indices[:2]
    given = torch.tensor([[[-1, -1, -1, -1, 0]]])
    truth = torch.tensor([[[a, b, b, 255, 255]]])
    labels = torch.tensor([[[a, a, 255, a, 0]]])  # right, wrong, too unsure to be one, nothing to compare with, given
    logits = torch.zeros(1, len(tiny.vocabulary), 1, 5).index_fill_(1, torch.tensor(b), 1)
    task.judge(truth, given, labels, logits)
    used, own = task.used_labels.compute(), task.own_labels.compute()
    assert (used[a, a], used[b, a], used.sum()) == (1, 1, 2)
    assert (own[a, b], own[b, b], own.sum()) == (1, 2, 3)


class Captured(pl.Callback):
    """Keeps the student's features and the teacher's and student's logits of each training step."""

    def __init__(self) -> None:
        self.features: list[torch.Tensor] = []
        self.teacher_features: list[torch.Tensor] = []
        self.outputs: list[dict[str, torch.Tensor]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MaskCLIPPlus)
        pl_module.student.network.register_forward_hook(lambda _, __, output: self.features.append(output.detach()))
        pl_module._teacher[0].clip.register_forward_hook(lambda _, __, output: self.teacher_features.append(output[0]))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self.outputs.append({**outputs, "given": batch["mask"]})


def exact_similarities(features: torch.Tensor, words: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Class logits (B, C, 64, 64) of features (B, D, h, w) and words (W, D), computed in float64; a class scores as its best word."""
    words_logits = torch.tensordot(features.double(), words.double(), dims=([1], [1])).permute(0, 3, 1, 2)
    classes = torch.stack([part.amax(1) for part in words_logits.split(counts, dim=1)], dim=1)
    return torch.nn.functional.interpolate(classes, size=(64, 64), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("guided", [0, 4])
def test_labels_keep_all_digits_in_half_precision(tiny: MaskCLIP, textures_root: Path, tmp_path: Path, guided: int) -> None:
    """Under Lightning's bf16-mixed only features are bf16; labels are those of float32 similarities of the same features."""
    captured, task = Captured(), make_task(tiny, "none", guided=guided)
    trainer = make_trainer(tmp_path, 2, callbacks=[captured], precision="bf16-mixed")
    trainer.fit(task, make_data(textures_root, tiny.vocabulary, "none"))
    assert captured.features[0].dtype == torch.bfloat16
    unlabelled = torch.arange(len(tiny.vocabulary))
    for number, output in enumerate(captured.outputs):
        features = captured.teacher_features[number] if guided else captured.features[number]
        assert features.dtype == torch.bfloat16 and output["logits"].dtype == torch.float32
        unit = torch.nn.functional.normalize(features.double(), dim=1) if guided else features
        exact = exact_similarities(unit, tiny.text_embeddings, tiny.vocabulary.word_counts)
        two = exact.topk(2, dim=1)[0]
        differ = (output["labels"] != unlabelled[exact.argmax(1)]) & (output["given"] == UNLABELLED)
        assert not (differ & ((two[:, 0] - two[:, 1]) > 1e-5 * two[:, 0].abs())).any()
        assert differ.float().mean() < 1e-3
        if not guided:
            torch.testing.assert_close(output["logits"].double(), exact, atol=1e-4, rtol=1e-5)


def test_one_forward_pass_of_the_student(tiny: MaskCLIP) -> None:
    """Training sees the logits of `Student.forward` under autocast: float32, and the gradient reaches the learned background."""
    torch.manual_seed(0)
    student = Student({"names": ["background", "cat", "dog"], "background": True}, 8, **NETWORK)
    student.text_embeddings.copy_(torch.nn.functional.normalize(torch.randn(2, 8), dim=1))
    image, gradients = torch.rand(2, 3, 64, 64), []
    for enabled in (False, True):
        student.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            logits, features = student(image, with_features=True)
            assert logits.dtype == torch.float32 and features.dtype == (torch.bfloat16 if enabled else torch.float32)
            logits.square().mean().backward()
        assert student.background is not None and student.background.grad is not None
        gradients.append(student.background.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.05, atol=0.05 * gradients[0].abs().max().item())


def test_a_batch_of_ignored_pixels_costs_nothing(tiny: MaskCLIP, textures_root: Path) -> None:
    task = make_task(tiny)
    task.trainer = make_trainer(textures_root, 4)
    task.log_dict = task.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    task.trainer.strategy._optimizers = [torch.optim.SGD(task.parameters(), 0.1)]
    batch: Any = {"image": torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "mask": torch.full((2, 64, 64), 255), "name": ["a", "b"]}
    assert task.training_step(batch, 0)["loss"].item() == 0


def test_a_compiled_student_is_stored_as_any_other(tiny: MaskCLIP, tmp_path: Path) -> None:
    plain, compiled = make_task(tiny).eval(), make_task(tiny).eval()
    compiled.student.network.compile(backend="eager")  # the default backend takes minutes
    image = torch.rand(1, 3, 64, 64)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(compiled.student(image), plain.student(image))


def test_checkpoint_is_safe_small_and_whole(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    task, data = make_task(tiny, "none"), make_data(textures_root, tiny.vocabulary, "none")
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(task, data)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    assert not [name for name in content["state_dict"] if "teacher" in name or "clip" in name]
    student, image = load_student(path), torch.rand(1, 3, 50, 70)
    assert all(torch.equal(value, task.student.state_dict()[name]) for name, value in student.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(student(image), task.student.eval()(image))
    assert student.vocabulary == task.student.vocabulary and student.method == "test"
    with pytest.raises(InputError, match="the classes asked for are cat"):
        load_student(path, ["cat"])


def test_distillation_pulls_the_features_to_the_teachers(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    task = make_task(tiny)
    image = torch.rand(2, 3, 64, 64)
    features = task.student.features(image)
    loss = task.distil(features, image, torch.ones(2, 64, 64, dtype=torch.bool))
    target = torch.nn.functional.normalize(resize(tiny.clip(image)[0], (16, 16)), dim=1)
    torch.testing.assert_close(loss, (features - target).abs().mean())
    loss.backward()
    weight = next(p for name, p in task.student.named_parameters() if "head" in name)
    assert weight.grad is not None and weight.grad.abs().sum() > 0  # in the released code there is none
    half = torch.zeros(2, 64, 64, dtype=torch.bool)
    half[:, :32] = True
    torch.testing.assert_close(task.distil(features, image, half), (features - target)[:, :, :8].abs().mean())
    assert task.distil(features, image, torch.zeros(2, 64, 64, dtype=torch.bool)) == 0
    make_trainer(tmp_path, 1).fit(make_task(tiny, distillation=2.5), make_data(textures_root, tiny.vocabulary, "seen"))


def test_divergence_is_said(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    task = make_task(tiny)
    with torch.no_grad():
        next(task.student.network.head.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match=r"the loss is nan at step 0.*smaller task.lr"):
        make_trainer(tmp_path, 2).fit(task, make_data(textures_root, tiny.vocabulary, "seen"))


def _gradient(rank: int, world: int, port: int, folder: str) -> None:
    """One process of several: the gradient of its share of a batch, averaged over all of them as DDP does, to a file."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    classes = {"names": ["cat", "dog", "sky"]}
    torch.manual_seed(0)
    task = MaskCLIPPlus(classes, 8, {**NETWORK, "decoder_aspp_dropout": 0.0}, "all", {})
    task.student.text_embeddings.copy_(torch.nn.functional.normalize(torch.randn(3, 8), dim=1))
    task.student.eval()  # batch statistics aside
    images, labels = torch.rand(4, 3, 64, 64), torch.randint(0, 3, (4, 64, 64))
    labels[:3, 10:] = 255  # the shares have different numbers of valid pixels
    mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
    task.loss(upsample_logits(task.student(images[mine]), (64, 64), (64, 64)), labels[mine]).backward()
    gradient = torch.cat([p.grad.flatten() for p in task.student.parameters() if p.grad is not None])
    torch.distributed.all_reduce(gradient)
    if rank == 0:
        torch.save(gradient / world, f"{folder}/{world}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    for world in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [get_context("spawn").Process(target=_gradient, args=(rank, world, port, str(tmp_path))) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
    one, two = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)
    assert one.abs().max() > 1e-4


def test_a_resumed_run_is_the_run(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    """Weights after 4 steps are bit-equal to those after 2 steps, a new process's objects, and 2 more; so are the phases."""

    def run(steps: int, resume: Path | None, max_steps: int = 4) -> tuple[pl.Trainer, MaskCLIPPlus, Recorder]:
        recorder, task = Recorder(), make_task(tiny, guided=3)
        trainer = make_trainer(tmp_path, max_steps, callbacks=[recorder, StopAt(steps)])
        torch.manual_seed(99)
        trainer.fit(task, make_data(textures_root, tiny.vocabulary, "seen"), ckpt_path=resume)
        return trainer, task, recorder

    _, whole, phases = run(4, None)
    first, _, before = run(2, None)
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed, second, after = run(4, tmp_path / "half.ckpt")
    assert resumed.global_step == 4
    assert before.phases + after.phases == phases.phases == [(0, True), (1, True), (2, True), (3, False)]
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, second.student.state_dict()[name]), name


def test_a_checkpoint_from_before_an_option_resumes_with_its_default(tiny: MaskCLIP, tmp_path: Path) -> None:
    stored = {key: value for key, value in make_task(tiny).hparams.items() if key != "flip"}
    torch.save({"hyper_parameters": stored}, tmp_path / "old.ckpt")
    check_resumable(make_task(tiny), str(tmp_path / "old.ckpt"))
    with pytest.raises(InputError, match=r"other settings \(task.flip was false, is true\)"):
        check_resumable(make_task(tiny, flip=True), str(tmp_path / "old.ckpt"))


def test_another_protocol_is_refused_with_both_values_and_another_batch_is_not(tiny: MaskCLIP, tmp_path: Path) -> None:
    task = make_task(tiny)
    for name, protocol in {"windows": {"window": 64, "stride": 32}, "batch": {"batch_size": 2}}.items():
        torch.save({"hyper_parameters": {**task.hparams, "protocol": protocol}}, tmp_path / f"{name}.ckpt")
    check_resumable(task, str(tmp_path / "batch.ckpt"))
    with pytest.raises(InputError, match=r"\(protocol.window was 64, is null; protocol.stride was 32, is null\)"):
        check_resumable(task, str(tmp_path / "windows.ckpt"))


def write_checkpoint(path: Path, task: MaskCLIPPlus, step: int = 0) -> str:
    torch.save({"hyper_parameters": dict(task.hparams), "global_step": step}, path)
    return str(path)


def test_every_setting_that_differs_is_named_with_both_values(tiny: MaskCLIP, tmp_path: Path) -> None:
    def run(seed: int, most: float, strategy: str) -> dict[str, Any]:
        teacher = {"strategy": strategy, "key_smoothing": None}
        return {"data": "a", "seed": seed, "max_steps": 8, "augmentation": {"most": most}, "teacher": teacher}

    checkpoint = write_checkpoint(tmp_path / "a.ckpt", make_task(tiny, run=run(0, 0.75, "maskclip"), lr=0.02))
    check_resumable(make_task(tiny, run=run(0, 0.75, "maskclip"), lr=0.02), checkpoint)
    with pytest.raises(InputError) as error:
        check_resumable(make_task(tiny, run=run(1, 0.5, "naclip"), lr=0.01), checkpoint)
    listed = [
        "task.lr was 0.02, is 0.01",
        "data.seed was 0, is 1",
        "data.augmentation.most was 0.75, is 0.5",
        "teacher.strategy was maskclip, is naclip",
    ]
    assert f"({'; '.join(listed)})" in str(error.value)


def test_a_checkpoint_is_checked_without_reading_its_tensors(tiny: MaskCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *given, **options: (mapped.append(options["mmap"]), load(*given, **options))[1])
    check_resumable(make_task(tiny), write_checkpoint(tmp_path / "a.ckpt", make_task(tiny)))
    assert mapped == [True]


def test_a_checkpoint_without_permission_is_no_broken_one(tiny: MaskCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", make_task(tiny))

    def refuse(*_: Any, **__: Any) -> None:  # root may read everything
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), checkpoint)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(InputError, match=rf"cannot read {checkpoint} \(resume\): Permission denied"):
        check_resumable(make_task(tiny), checkpoint)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            ["b", "c", "d", "e", "f", "g", "h", "i", "j", "k"],
            "10 images, now there are 10 .missing: a; new: k.*restore the training images",
        ),
        (["a", "b"], "10 images, now there are 2 .missing: c, d, e, f, g and 3 more."),
        (list("jihgfedcba"), "the same names in another order"),
    ],
)
def test_a_run_does_not_go_on_with_other_images(tiny: MaskCLIP, tmp_path: Path, now: list[str], message: str) -> None:
    before = list("abcdefghij")
    (tmp_path / "checkpoints").mkdir()
    checkpoint = write_checkpoint(tmp_path / "checkpoints" / "a.ckpt", make_task(tiny, run={"images": image_list(before)}))
    write_image_list(tmp_path, before)
    check_resumable(make_task(tiny, run={"images": image_list(before)}), checkpoint, before)
    with pytest.raises(InputError, match=message):
        check_resumable(make_task(tiny, run={"images": image_list(now)}), checkpoint, now)
    write_image_list(tmp_path, ["x"])  # of another run
    with pytest.raises(InputError, match=rf"10 images, now there are {len(now)} .with other names"):
        check_resumable(make_task(tiny, run={"images": image_list(now)}), checkpoint, now)


@pytest.mark.parametrize(
    ("old", "new", "step", "message"),
    [
        ((4, 1.0), (8, 1.0), 4, None),
        ((10, 0.4), (20, 0.4), 3, None),
        ((10, 4), (20, 4), 9, None),
        ((10, 0.4), (20, 4), 9, None),
        ((10, 0.4), (20, 0.4), 9, "the teacher labels 8 steps.*keep that with task.guided=4"),
        ((10, 4), (20, 6), 2, "keep that with task.guided=4"),
        ((10, 4), (10, 6), 2, "task.guided was 4, is 6"),
        ((10, 1.0), (8, 1.0), 2, "trainer.max_steps was 10, is 8: a resumed run can be prolonged, not shortened"),
    ],
)
def test_a_run_may_be_prolonged(
    tiny: MaskCLIP,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: tuple[int, float],
    new: tuple[int, float],
    step: int,
    message: str | None,
) -> None:
    before, now = (make_task(tiny, guided=guided, run={"max_steps": steps}) for steps, guided in (old, new))
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", before, step)
    if message is None:
        check_resumable(now, checkpoint)
        assert f"Resuming at step {step} with trainer.max_steps={new[0]} (was {old[0]})" in capsys.readouterr().out
    else:
        with pytest.raises(InputError, match=message):
            check_resumable(now, checkpoint)


def test_a_prolonged_run_follows_the_longer_schedule(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    """A finished run of 2 steps goes on to 5: from its third step on at the learning rates of a run of 5."""
    rates: list[float] = []

    class Rates(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    first = make_trainer(tmp_path, 2)
    first.fit(make_task(tiny), make_data(textures_root, tiny.vocabulary, "seen"))
    first.save_checkpoint(tmp_path / "done.ckpt")
    longer = make_trainer(tmp_path, 5, callbacks=[Rates()])
    longer.fit(make_task(tiny), make_data(textures_root, tiny.vocabulary, "seen"), ckpt_path=tmp_path / "done.ckpt")
    assert longer.global_step == 5
    assert rates == [pytest.approx((0.01 - 1e-4) * (1 - step / 5) ** 0.9 + 1e-4) for step in (2, 3, 4)]


class StopAt(pl.Callback):
    """Ends a run in the middle, as a kill would, with the schedule of the whole run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step:
            trainer.should_stop = True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lamb"}, "sgd or adamw"),
        *(({"guided": value}, f"task.guided={value}: give") for value in (1.5, 1, True, "1.0", -2, float("nan"), 4000.0)),
        *(({"lr": value}, f"task.lr={value}: give") for value in (0, -1, True, "0.1", float("inf"), float("nan"))),
        ({"lr": 1e-5}, r"task.min_lr=0.0001: give a number from 0 to task.lr=1e-05"),
        ({"flip": 1}, "task.flip=1: give true or false"),
        *(({"confidence": value}, "task.confidence=.*: give a cosine") for value in (True, "0.1", 30, float("nan"))),
        *(({"distillation": value}, "task.distillation=.*: give a number") for value in (True, -1, "1", float("nan"))),
        *(({"momentum": value}, "task.momentum=.*: give a number") for value in (True, 1.0, -0.1, "0.9")),
        ({"momentum": 0.9, "optimizer": "adamw"}, "task.momentum=0.9: give null: task.optimizer=adamw has no momentum"),
        *(({key: value}, f"task.{key}=.*: give a number") for key in ("weight_decay", "power") for value in (True, -1, float("inf"))),
        ({"mean_over": True}, "valid or all"),
        *(
            ({"guided": off, **given}, r"with task.guided=0 the teacher labels nothing")
            for off in (0, 0.0)
            for given in ({"flip": True}, {"confidence": 0.1}, {"distillation": 1.0})
        ),
    ],
)
def test_bad_settings(tiny: MaskCLIP, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_task(tiny, **options)


def test_learning_rate_falls_polynomially(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    task = make_task(tiny, lr=0.01, min_lr=1e-4, power=0.9)
    trainer = make_trainer(tmp_path, 4)
    trainer.fit(task, make_data(textures_root, tiny.vocabulary, "seen"))
    schedule = task.lr_schedulers()
    assert schedule.get_last_lr() == [pytest.approx(1e-4)]  # type: ignore[union-attr]
    factor = schedule.lr_lambdas[0]  # type: ignore[union-attr]
    assert 0.01 * factor(1) == pytest.approx((0.01 - 1e-4) * (1 - 1 / 4) ** 0.9 + 1e-4)
