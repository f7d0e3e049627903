"""Distilling windows into one forward pass: the targets, what is trained, resuming, and invalid settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.training import make_data, make_trainer

from maskclip import InputError, MaskCLIP
from maskclip.inference.views import window_features
from maskclip.tasks.any_resolution import AnyResolution

SETTINGS: dict[str, Any] = {"window": 32, "stride": 16, "blocks": 1, "sizes": [48, 64], "lr": 1e-3}


def make_any_resolution(teacher: MaskCLIP, **options: Any) -> AnyResolution:
    task = AnyResolution(**(SETTINGS | options))
    task.attach_teacher(teacher.clip)
    return task


def trained(task: AnyResolution, teacher: MaskCLIP, root: Path, steps: int, checkpoint: Path | None = None) -> AnyResolution:
    data = make_data(root, teacher.vocabulary, "none", truth=False)
    trainer = make_trainer(root, steps)
    trainer.fit(task, data, ckpt_path=None if checkpoint is None else str(checkpoint))
    return task


def student_state(task: AnyResolution) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.student.state_dict().items()}


def test_targets_equal_a_loop_over_windows(tiny: MaskCLIP) -> None:
    """The mean over windows at each pixel, and from pixels to the grid by bilinear interpolation."""
    images, starts = torch.rand(2, 3, 48, 64), {48: [0, 16], 64: [0, 16, 32]}
    totals, counts = torch.zeros(2, tiny.embedding_dim, 48, 64), torch.zeros(48, 64)
    for top in starts[48]:
        for left in starts[64]:
            features = F.normalize(tiny.clip(images[:, :, top : top + 32, left : left + 32])[0], dim=1)
            pixels = F.interpolate(features, size=(32, 32), mode="bilinear")
            totals[:, :, top : top + 32, left : left + 32] += pixels
            counts[top : top + 32, left : left + 32] += 1
    expected = F.interpolate(totals / counts, size=(6, 8), mode="bilinear")
    for batch_size in (1, 64):
        targets = window_features(tiny.clip, images, 32, 16, (6, 8), batch_size)
        assert torch.allclose(targets, expected, atol=1e-5)


def test_a_window_that_covers_the_image_is_one_forward_pass(tiny: MaskCLIP) -> None:
    image = torch.rand(1, 3, 48, 64)
    targets = window_features(tiny.clip, image, 64, 32, (6, 8))
    assert F.cosine_similarity(targets, tiny.clip(image)[0], dim=1).min() > 0.98  # to pixels and back blurs a little


def test_only_the_last_blocks_change_and_the_loss_falls(tiny: MaskCLIP, textures_root: Path) -> None:
    task = make_any_resolution(tiny, lr=3e-3)
    before = student_state(task)
    images = make_data(textures_root, tiny.vocabulary, "none", truth=False).dataset("val")[0]["image"][None, :, :64, :64]
    first = task.agreement(images).item()
    trained(task, tiny, textures_root, 12)
    changed = {name for name, value in task.student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("resblocks.1." in name for name in changed)
    assert task.agreement(images).item() > first + 0.01
    assert all(torch.equal(value, before[name]) for name, value in tiny.clip.state_dict().items())


def test_queries_and_keys_of_the_last_block_keep_their_weights(tiny: MaskCLIP, textures_root: Path) -> None:
    """MaskCLIP uses the values only; other strategies find the other rows as they were."""
    task = trained(make_any_resolution(tiny), tiny, textures_root, 2)
    name = "tower.adapter.tower.transformer.resblocks.1.attn.in_proj_weight"
    after, before = task.student.get_parameter(name), tiny.clip.get_parameter(name)
    assert torch.equal(after[:384], before[:384]) and not torch.equal(after[384:], before[384:])


def test_a_resumed_run_equals_an_uninterrupted_one(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    whole = trained(make_any_resolution(tiny), tiny, textures_root, 4)
    part = make_any_resolution(tiny)
    data = make_data(textures_root, tiny.vocabulary, "none", truth=False)
    trainer = make_trainer(textures_root, 4, limit_train_batches=2)
    trainer.fit_loop.max_epochs = 1
    trainer.fit(part, data)
    trainer.save_checkpoint(tmp_path / "part.ckpt")
    assert torch.load(tmp_path / "part.ckpt", weights_only=True)["global_step"] == 2
    resumed = trained(make_any_resolution(tiny), tiny, textures_root, 4, tmp_path / "part.ckpt")
    for name, value in student_state(whole).items():
        assert torch.allclose(value, student_state(resumed)[name], atol=1e-6), name


def test_crops_have_whole_patches_and_depend_on_seed_and_step(tiny: MaskCLIP) -> None:
    task, other = make_any_resolution(tiny, sizes=[50, 90]), make_any_resolution(tiny, sizes=[50, 90], seed=1)
    sizes = [task.crop_size(step) for step in range(50)]
    assert {side for size in sizes for side in size} == {56, 64, 72, 80, 88}
    assert sizes == [task.crop_size(step) for step in range(50)] != [other.crop_size(step) for step in range(50)]


@pytest.mark.parametrize(("height", "width", "expected"), [(100, 41, (64, 40)), (48, 200, (48, 64)), (5, 64, (5, 64))])
def test_validation_takes_the_centre_of_large_images(tiny: MaskCLIP, height: int, width: int, expected: tuple[int, int]) -> None:
    image = torch.arange(width).expand(3, height, width)
    centre = make_any_resolution(tiny).centre(image)
    assert centre.shape[1:] == expected and abs(centre[0, 0, 0] + centre[0, 0, -1] - (width - 1)) <= 1


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("window", [True, 0, -8, "64", 32.0]),
        ("stride", [True, 0, "8", 1.5]),
        ("blocks", [True, 0, None, "2", 9]),
        ("sizes", [[64], [64, 48], 64, "64", [0, 64], [True, 64], [64, 96.5], [16, 32], [57, 63]]),
        ("lr", [True, 0, "0.1", float("nan")]),
    ],
)
def test_invalid_values(tiny: MaskCLIP, key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InputError, match=f"task.{key}="):
            make_any_resolution(tiny, **{key: value})


def test_a_stride_above_the_window_leaves_gaps(tiny: MaskCLIP) -> None:
    with pytest.raises(InputError, match=r"task\.stride=33: give at most task.window=32"):
        make_any_resolution(tiny, stride=33)
    with pytest.raises(InputError, match=r"task.sizes=\[48, 64\]: give a largest side above task.window=96"):
        make_any_resolution(tiny, window=None)
