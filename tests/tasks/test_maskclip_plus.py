"""Training MaskCLIP+: the source of labels in each phase, the loss, precision and checkpoints."""

from __future__ import annotations

import socket
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from support.training import NETWORK, PhaseRecorder, make_data, make_task, make_trainer

from maskclip import InputError, MaskCLIP, Student, Vocabulary, load_student
from maskclip.functional import UNLABELLED, resize, upsample_logits
from maskclip.tasks.maskclip_plus import MaskCLIPPlus


def test_the_teacher_labels_the_guided_phase(tiny: MaskCLIP, textures_root: Path) -> None:
    task = make_task(tiny)
    batch = next(iter(make_data(textures_root, tiny.vocabulary).train_dataloader()))
    image, mask = batch["image"].float() / 255, batch["mask"]
    task.trainer = make_trainer(textures_root, 4)
    labels = task.fill(mask, image)
    unseen = tiny.vocabulary.unseen_indices
    synonyms = {name: words for name, words in tiny.vocabulary.prompts.items() if name in tiny.vocabulary.unseen}
    words = Vocabulary(list(tiny.vocabulary.unseen), prompts=synonyms)
    only_unseen = MaskCLIP(tiny.clip, words, tiny.text_embeddings[tiny.vocabulary.rows(unseen)[0]])
    best = upsample_logits(only_unseen(image), (64, 64), (64, 64)).argmax(1)
    expected = torch.tensor(unseen)[best]
    assert torch.equal(labels[mask == UNLABELLED], expected[mask == UNLABELLED])
    assert torch.equal(labels[mask != UNLABELLED], mask[mask != UNLABELLED])
    assert (mask == UNLABELLED).any() and UNLABELLED not in labels


def test_flip_makes_the_labels_symmetric(tiny: MaskCLIP, textures_root: Path) -> None:
    """With `flip`, the labels of a mirrored crop are the mirrored labels except for ties; without it they differ."""
    image, mask = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.full((2, 64, 64), UNLABELLED)
    agreement = {}
    for flip in (True, False):
        task = make_task(tiny, "none", flip=flip)
        task.trainer = make_trainer(textures_root, 4)
        labels, mirrored = (task.fill(mask, pixels) for pixels in (image, image.flip(-1)))
        agreement[flip] = (labels == mirrored.flip(-1)).float().mean().item()
    assert agreement[True] > 0.999 > agreement[False]


def test_the_student_labels_the_second_phase(tiny: MaskCLIP, textures_root: Path) -> None:
    task = make_task(tiny, guided=0)
    task.trainer = make_trainer(textures_root, 4)
    mask = torch.full((1, 50, 64), UNLABELLED)  # padded to 64 x 64
    logits = torch.randn(1, len(tiny.vocabulary), 8, 8, requires_grad=True)
    labels = task.own_pseudo_labels(mask, logits)
    unseen = torch.tensor(tiny.vocabulary.unseen_indices)
    assert torch.equal(labels, unseen[F.interpolate(logits[:, unseen], scale_factor=8, mode="bilinear")[:, :, :50].argmax(1)])
    assert not labels.requires_grad


def test_phases_count_optimiser_steps(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    recorder = PhaseRecorder()
    trainer = make_trainer(tmp_path, 4, callbacks=[recorder], accumulate_grad_batches=2)
    trainer.fit(make_task(tiny, guided=0.5), make_data(textures_root, tiny.vocabulary))
    assert recorder.phases == [(step, step < 2) for step in range(4) for _ in range(2)]


def test_leaked_ground_truth_is_an_error(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="leaks ground truth"):
        make_trainer(tmp_path, 4).fit(make_task(tiny), make_data(textures_root, tiny.vocabulary, "all"))


def test_hidden_truth_is_only_logged(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    """Weights are bit-equal with and without the hidden truth, which only pseudo labels are compared with."""
    weights, counts = [], []
    for truth in (True, False):
        task = make_task(tiny, guided=0.5)
        make_trainer(tmp_path, 2).fit(task, make_data(textures_root, tiny.vocabulary, truth=truth))
        weights.append(task.student.state_dict())
        counts.append(task.used_labels.confmat)
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert counts[0].sum() > 0 and counts[1].sum() == 0
    is_seen = torch.ones(len(tiny.vocabulary), dtype=torch.bool)
    is_seen[tiny.vocabulary.unseen_indices] = False
    assert counts[0][is_seen].sum() == 0 == counts[0][:, is_seen].sum()


def test_quality_counts_pixels_with_a_pseudo_label_and_truth(tiny: MaskCLIP) -> None:
    task = make_task(tiny)
    a, b = tiny.vocabulary.unseen_indices[:2]
    mask = torch.tensor([[[-1, -1, -1, -1, 0]]])  # one row of five pixels, which the network pads
    truth = torch.tensor([[[a, b, b, 255, 255]]])
    labels = torch.tensor([[[a, a, 255, a, 0]]])  # right, wrong, no pseudo label, no truth, ground truth
    logits = torch.zeros(1, len(tiny.vocabulary), 8, 8).index_fill_(1, torch.tensor(b), 1)
    task.update_quality(truth, mask, labels, logits)
    used, own = task.used_labels.compute(), task.own_labels.compute()
    assert (used[a, a], used[b, a], used.sum()) == (1, 1, 2)
    assert (own[a, b], own[b, b], own.sum()) == (1, 2, 3)


class OutputRecorder(pl.Callback):
    """Records the features of the student and the teacher, and the outputs of each training step."""

    def __init__(self, teacher: MaskCLIP) -> None:
        self.features: list[torch.Tensor] = []
        self.teacher_features: list[torch.Tensor] = []
        self.outputs: list[dict[str, torch.Tensor]] = []
        teacher.clip.register_forward_hook(lambda _, __, output: self.teacher_features.append(output[0]))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MaskCLIPPlus)
        pl_module.student.network.register_forward_hook(lambda _, __, output: self.features.append(output.detach()))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self.outputs.append({**outputs, "mask": batch["mask"]})


def exact_logits(features: torch.Tensor, words: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Class logits (B, C, 64, 64) of features (B, D, h, w) and words (W, D) in float64; a class scores as its best word."""
    words_logits = torch.tensordot(features.double(), words.double(), dims=([1], [1])).permute(0, 3, 1, 2)
    classes = torch.stack([part.amax(1) for part in words_logits.split(counts, dim=1)], dim=1)
    return F.interpolate(classes, size=(64, 64), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("guided", [0, 4])
def test_labels_are_exact_in_half_precision(tiny: MaskCLIP, textures_root: Path, tmp_path: Path, guided: int) -> None:
    """Under Lightning's bf16-mixed only features are bf16; labels are those of float32 similarities of the same features."""
    recorder = OutputRecorder(tiny)
    trainer = make_trainer(tmp_path, 2, callbacks=[recorder], precision="bf16-mixed")
    trainer.fit(make_task(tiny, "none", guided=guided), make_data(textures_root, tiny.vocabulary, "none"))
    assert recorder.features[0].dtype == torch.bfloat16
    unlabelled = torch.arange(len(tiny.vocabulary))
    for number, output in enumerate(recorder.outputs):
        features = recorder.teacher_features[number] if guided else recorder.features[number]
        assert features.dtype == torch.bfloat16 and output["logits"].dtype == torch.float32
        unit = F.normalize(features.double(), dim=1) if guided else features
        exact = exact_logits(unit, tiny.text_embeddings, tiny.vocabulary.word_counts)
        best, second = exact.topk(2, dim=1)[0].unbind(1)
        differ = (output["labels"] != unlabelled[exact.argmax(1)]) & (output["mask"] == UNLABELLED)
        assert not (differ & ((best - second) > 1e-5 * best.abs())).any()
        assert differ.float().mean() < 1e-3
        if not guided:
            torch.testing.assert_close(resize(output["logits"].double(), (64, 64)), exact, atol=1e-4, rtol=1e-5)


def test_the_student_classifies_in_float32_under_autocast() -> None:
    """The gradient reaches the learned background."""
    torch.manual_seed(0)
    student = Student({"names": ["background", "cat", "dog"], "background": True}, 8, **NETWORK)
    student.text_embeddings.copy_(F.normalize(torch.randn(2, 8), dim=1))
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


def test_a_batch_of_ignored_pixels_has_no_loss(tiny: MaskCLIP) -> None:
    task, ignored = make_task(tiny), torch.full((2, 64, 64), 255)
    assert task.loss(torch.randn(2, len(tiny.vocabulary), 16, 16), ignored).item() == 0


@pytest.mark.slow  # importing the compiler takes seconds
def test_a_compiled_student_has_the_same_names_in_checkpoints(tiny: MaskCLIP) -> None:
    task = make_task(tiny)
    names = list(task.state_dict())
    task.student.network.compile()
    assert list(task.state_dict()) == names


def test_a_checkpoint_is_plain_data_without_the_teacher(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    task, path = make_task(tiny, "none"), tmp_path / "last.ckpt"
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(task, make_data(textures_root, tiny.vocabulary, "none"))
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    assert not [name for name in content["state_dict"] if "teacher" in name or "clip" in name]
    student, image = load_student(path), torch.rand(1, 3, 50, 70)
    assert all(torch.equal(value, task.student.state_dict()[name]) for name, value in student.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(student(image), task.student.eval()(image))
    assert student.vocabulary == task.student.vocabulary and student.method == "test"
    with pytest.raises(InputError, match="the config has cat"):
        load_student(path, ["cat"])


def test_distillation_is_the_distance_to_the_features_of_the_teacher(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    task = make_task(tiny)
    image, everywhere = torch.rand(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.bool)
    features = task.student.features(image)
    loss = task.distil(features, image, everywhere)
    target = F.normalize(resize(tiny.clip(image)[0], (16, 16)), dim=1)
    torch.testing.assert_close(loss, (features - target).abs().mean())
    loss.backward()
    weight = next(p for name, p in task.student.named_parameters() if "head" in name)
    assert weight.grad is not None and weight.grad.abs().sum() > 0  # the released code has no gradient here
    upper_half = everywhere.clone()
    upper_half[:, 32:] = False
    torch.testing.assert_close(task.distil(features, image, upper_half), (features - target)[:, :, :8].abs().mean())
    assert task.distil(features, image, ~everywhere) == 0
    make_trainer(tmp_path, 1).fit(make_task(tiny, distillation=2.5), make_data(textures_root, tiny.vocabulary))


def test_divergence_is_an_error(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    task = make_task(tiny)
    with torch.no_grad():
        next(task.student.network.head.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match=r"the loss is nan at step 0.*smaller task.lr"):
        make_trainer(tmp_path, 2).fit(task, make_data(textures_root, tiny.vocabulary))


def test_the_learning_rate_decays_as_a_polynomial(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    task = make_task(tiny, lr=0.01, min_lr=1e-4, power=0.9)
    make_trainer(tmp_path, 4).fit(task, make_data(textures_root, tiny.vocabulary))
    schedule = task.lr_schedulers()
    assert schedule.get_last_lr() == [pytest.approx(1e-4)]  # type: ignore[union-attr]
    factor = schedule.lr_lambdas[0]  # type: ignore[union-attr]
    assert 0.01 * factor(1) == pytest.approx((0.01 - 1e-4) * (1 - 1 / 4) ** 0.9 + 1e-4)


def save_gradient(rank: int, world: int, port: int, folder: str) -> None:
    """Run one of `world` processes: average the gradients of the shares of a batch as DDP does, and save the result."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.manual_seed(0)
    task = MaskCLIPPlus({"names": ["cat", "dog", "sky"]}, 8, NETWORK, "all", {})
    task.student.text_embeddings.copy_(F.normalize(torch.randn(3, 8), dim=1))
    task.student.eval()  # BatchNorm would differ between shares
    images, labels = torch.rand(4, 3, 64, 64), torch.randint(0, 3, (4, 64, 64))
    labels[:3, 10:] = 255  # the shares have different numbers of valid pixels
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    task.loss(task.student(images[share]), labels[share]).backward()
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
        processes = [get_context("spawn").Process(target=save_gradient, args=(rank, world, port, str(tmp_path))) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
    one, two = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)
    assert one.abs().max() > 1e-4
