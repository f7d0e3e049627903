"""Parameters and training speed of the networks of students, on random weights and pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hydra import compose, initialize_config_dir

from benchmarks.timing import median_seconds
from maskclip.evaluation.cards import device_name
from maskclip.files import CHECKOUT
from maskclip.inference.kernels import PRECISIONS
from maskclip.models.student import Student
from maskclip.programs.config import plain

STUDENTS = (
    ("deeplabv3plus", "resnet18"),
    ("deeplabv2", "resnet18"),
    ("deeplabv3plus", "tu-resnet101c"),
    ("deeplabv2", "tu-resnet101c"),
    ("segformer", "mit_b0"),
    ("segformer", "mit_b2"),
    ("upernet_vit", "tu-vit_small_patch14_reg4_dinov2.lvd142m"),
    ("upernet_vit", "tu-vit_small_patch16_dinov3.lvd1689m"),
)
"""Options of `student` with an encoder each."""
TEXT_DIMENSIONS = 512  # of ViT-B/16


def benchmark_students(size: tuple[int, int], batch: int, precisions: Sequence[str], device: torch.device, runs: int) -> None:
    """Print the parameters of each network, and the images per second of its forward pass, backward pass and update."""
    print(f"{batch} crops of {size[0]}x{size[1]}, {device_name(device)}, torch {torch.__version__}, images/s, median of {runs} steps")
    print(f"{'student':<16}{'encoder':<44}{'parameters, M':>14}{''.join(f'{name:>8}' for name in precisions)}")
    for option, encoder in STUDENTS:
        with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
            cfg = compose("train", overrides=[f"student={option}", f"student.encoder={encoder}", "student.weights=null"])
        student = Student({"names": ["cat", "dog"]}, TEXT_DIMENSIONS, **plain(cfg.student)).to(device).train()
        parameters = sum(parameter.numel() for parameter in student.parameters()) / 1e6
        image = torch.rand(batch, 3, *size, device=device)
        rates = [batch / step_seconds(student, image, PRECISIONS[name], runs) for name in precisions]
        print(f"{option:<16}{encoder:<44}{parameters:>14.1f}{''.join(f'{rate:>8.2f}' for rate in rates)}", flush=True)


def step_seconds(student: Student, image: torch.Tensor, dtype: torch.dtype | None, runs: int) -> float:
    """Median seconds of a training step of the network alone: without teacher, classifier and loss."""
    optimizer = torch.optim.AdamW(student.network.parameters())

    def step() -> None:
        with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
            features = student.features(image)
        features.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return median_seconds(step, runs, image.device)
