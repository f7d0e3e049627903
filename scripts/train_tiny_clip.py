"""Train the tiny CLIP on captioned pictures of the textures world; it never sees a mask.

    python scripts/train_tiny_clip.py                 # two CPU cores, under an hour
    python scripts/train_tiny_clip.py --device cuda   # minutes

Interrupt it whenever you like: the same command goes on where it stopped. The model is open_clip's own, and so is the
loss, except that equal captions in a batch count as positives. The first part of the run drops half of the patches,
as FLIP does (Li et al., CVPR 2023): it is twice as fast, and it makes every patch speak for itself.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from maskclip.clip import tiny  # noqa: E402 - after the path, so that it runs from a checkout
from maskclip.data.textures import stream  # noqa: E402


class Batches(Dataset):
    """Batch number i of the endless stream: uint8 images (B, 3, H, W), token ids (B, L). A function of seed and i."""

    def __init__(self, seed: int, first: int, last: int, batch_size: int, size: int, close_ups: float) -> None:
        self.seed, self.first, self.last = seed, first, last
        self.batch_size, self.size, self.close_ups = batch_size, size, close_ups
        self.tokenize = open_clip.get_tokenizer(tiny.ARCHITECTURE)

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        seed = [self.seed, self.first + index]
        source = stream(seed, (self.size, self.size), self.close_ups)
        images, captions = zip(*(next(source) for _ in range(self.batch_size)), strict=True)
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), self.tokenize(list(captions))


class EqualCaptionsLoss(open_clip.ClipLoss):
    """open_clip's contrastive loss in which all images of one batch with the same caption are right answers to it."""

    targets: Tensor

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        return self.targets

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor, tokens: Tensor) -> Tensor:
        same = (tokens[:, None] == tokens).all(-1).float()  # B x B
        self.targets = same / same.sum(1, keepdim=True)
        return super().forward(image, text, logit_scale)


def build(seed: int, device: str) -> tuple[open_clip.CLIP, torch.optim.Optimizer]:
    """A new tiny CLIP and AdamW for it; vectors (norms, biases, scale) are not decayed."""
    torch.manual_seed(seed)
    tiny.register()
    model = open_clip.create_model(tiny.ARCHITECTURE, device=device)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """One cycle: linear warm-up over a twentieth of the run, then a cosine to zero."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def save(path: Path, content: dict) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def train(args: argparse.Namespace) -> None:
    model, optimizer = build(args.seed, args.device)
    touched = torch.zeros(model.vocab_size, dtype=torch.bool)
    start = 0
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        touched, start = state["touched"], state["step"]
        print(f"resumed from {args.checkpoint} at step {start}")
    mean, std = (torch.tensor(c, device=args.device).view(3, 1, 1) for c in (model.visual.image_mean, model.visual.image_std))
    loss_of = EqualCaptionsLoss()
    batches = Batches(args.seed, start, args.steps, args.batch_size, model.visual.image_size[0], args.close_ups)
    loader = DataLoader(batches, batch_size=None, num_workers=args.workers, prefetch_factor=4 if args.workers else None)
    bar = tqdm(loader, initial=start, total=args.steps, unit="step", dynamic_ncols=True, mininterval=args.log_seconds)
    for step, (images, tokens) in enumerate(bar, start=start):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        dropping = step < args.dropout_until * args.steps
        model.visual.patch_dropout = open_clip.transformer.PatchDropout(0.5) if dropping else nn.Identity()
        touched[tokens.unique()] = True
        images, tokens = images.to(args.device, non_blocking=True), tokens.to(args.device, non_blocking=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            image, text, scale = model((images / 255 - mean) / std, tokens)
        loss = loss_of(image.float(), text.float(), scale, tokens)
        if not loss.isfinite():
            sys.exit(f"error: the loss is {loss.item()} at step {step}; start again with a smaller --lr")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 20 == 0:
            right = loss_of.targets.gather(1, (image @ text.T).argmax(1, keepdim=True)).gt(0).float().mean()
            bar.set_postfix(loss=f"{loss.item():.3f}", retrieval=f"{right.item():.2f}", scale=f"{scale.item():.1f}")
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "touched": touched}
            save(args.checkpoint, content | {"step": step + 1, "loss": loss.item()})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, default=2400, help="optimiser steps (default: %(default)s)")
    add("--batch-size", type=int, default=256, help="captioned images a step (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--close-ups", type=float, default=0.3, help="share of pictures of one texture only (default: %(default)s)")
    add("--dropout-until", type=float, default=0.7, help="share of the run with half of the patches (default: %(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--bf16", action=argparse.BooleanOptionalAction, default=True, help="autocast to bfloat16 (default: on)")
    add("--workers", type=int, default=1, help="processes that draw pictures (default: %(default)s)")
    add("--save-every", type=int, default=100, help="steps between checkpoints (default: %(default)s)")
    add("--log-seconds", type=float, default=1.0, help="least time between two prints of progress (default: %(default)s)")
    add("--checkpoint", type=Path, default=ROOT / "outputs" / "tiny_clip" / "last.pt")
    return parser.parse_args()


if __name__ == "__main__":
    train(arguments())
