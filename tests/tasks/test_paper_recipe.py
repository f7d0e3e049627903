"""The default is the paper's recipe: with one view, labels of the crop and SGD, as a plain loop computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from support.training import make_data, make_task, make_trainer

from maskclip import MaskCLIP
from maskclip.functional import UNLABELLED

STEPS, GUIDED, LR, MIN_LR, POWER = 3, 2, 0.01, 1e-4, 0.9


class Outputs(pl.Callback):
    """Keeps the outputs of all training steps."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.steps.append({name: value.clone() for name, value in outputs.items()})


def test_the_default_recipe_is_a_plain_loop(tiny: MaskCLIP, textures_root: Path, tmp_path: Path) -> None:
    """Images and labels are bit-identical; losses and weights differ by the order of summation only."""
    recorded = Outputs()
    trained = make_task(tiny, guided=GUIDED)
    make_trainer(tmp_path, STEPS, callbacks=[recorded]).fit(trained, make_data(textures_root, tiny.vocabulary))

    student, unseen = make_task(tiny, guided=GUIDED).student.train(), torch.tensor(tiny.vocabulary.unseen_indices)
    optimizer = torch.optim.SGD(student.parameters(), LR, momentum=0.9, weight_decay=5e-4)
    for step, batch in zip(range(STEPS), make_data(textures_root, tiny.vocabulary).train_dataloader(), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = (LR - MIN_LR) * (1 - step / STEPS) ** POWER + MIN_LR
        image, mask = batch["image"].float() / 255, batch["mask"]
        logits = F.interpolate(student(image), size=mask.shape[1:], mode="bilinear")
        with torch.no_grad():
            scores = F.interpolate(tiny(image, unseen), size=mask.shape[1:], mode="bilinear") if step < GUIDED else logits[:, unseen]
        labels = torch.where(mask == UNLABELLED, unseen[scores.argmax(1)], mask)
        loss = F.cross_entropy(logits, labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        actual = recorded.steps[step]
        assert torch.equal(actual["image"], image) and torch.equal(actual["mask"], mask)
        if step < GUIDED:
            assert torch.equal(actual["labels"], labels)
        else:  # ties within rounding, of a student that is hardly trained
            assert (actual["labels"] == labels).float().mean() > 0.999
        torch.testing.assert_close(actual["loss"], loss.detach(), rtol=1e-5, atol=0)
    for (name, actual_weight), weight in zip(trained.student.named_parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(actual_weight, weight, rtol=1e-3, atol=1e-5, msg=name)
