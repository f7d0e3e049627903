"""Train the tiny CLIP on captioned pictures of the textures world; it never sees a mask.

    python scripts/train_tiny_clip.py                 # two CPU cores, under an hour
    python scripts/train_tiny_clip.py --device cuda   # minutes

Interrupt it whenever you like: the same command goes on where it stopped. At the end the weights and their model card
are written to src/maskclip/assets. The model is open_clip's own and so is the contrastive loss, except that equal
captions in a batch count as positives. Three habits of training stand in for the scale that a real CLIP has; without
them a model this small recognises pictures well but from a few telling patches, and its values say little:

- Patches are dropped, at several rates (FLIP: Li et al., CVPR 2023): every patch has to speak for itself.
- The last layer's queries are kept at zero, so that its attention is even over all tokens.
- In half of the steps a random token stands in for the class token in the last block.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path

import checkout  # noqa: F401 - puts src on the path
import numpy as np
import open_clip
import torch
from omegaconf import OmegaConf
from open_clip.model import CLIP
from open_clip.transformer import PatchDropout, VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from maskclip import MaskCLIP, Protocol, Vocabulary, predict_labels
from maskclip.clip import tiny
from maskclip.data.dataset import SegmentationDataset
from maskclip.evaluation.scores import Confusion, Scores, scores
from maskclip.files import CHECKOUT
from maskclip.prepare import release
from maskclip.textures.dataset import write_textures
from maskclip.textures.scenes import GENTLE_JITTER, JITTER, stream

DROP_RATES = (0.75, 0.5, 0.5, 0.0)
"""Shares of the patches that are left out, step by step in turn, until the last part of the run."""


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batch number i of the endless stream: uint8 images (B, 3, H, W), token ids (B, L). A function of seed and i.

    The first `gentle` batches are drawn in colours that stray less.
    """

    def __init__(self, seed: int, first: int, last: int, batch_size: int, size: int, close_ups: float, gentle: int = 0) -> None:
        self.seed, self.first, self.last = seed, first, last
        self.batch_size, self.size, self.close_ups, self.gentle = batch_size, size, close_ups, gentle
        self.tokenize = open_clip.get_tokenizer(tiny.ARCHITECTURE)

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number = self.first + index
        jitter = GENTLE_JITTER if number < self.gentle else JITTER
        source = stream([self.seed, number], (self.size, self.size), self.close_ups, jitter)
        images, captions = zip(*(next(source) for _ in range(self.batch_size)), strict=True)
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), self.tokenize(list(captions))


class EqualCaptionsLoss(open_clip.ClipLoss):
    """open_clip's contrastive loss in which all images of one batch with the same caption are right answers to it."""

    targets: Tensor

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        return self.targets

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor, tokens: Tensor) -> Tensor:
        self.targets = equal_captions(tokens)
        return super().forward(image, text, logit_scale)


def equal_captions(tokens: Tensor) -> Tensor:
    """For every caption of a batch the share of each caption among those equal to it, (B, B), rows sum to 1."""
    same = (tokens[:, None] == tokens).all(-1).float()
    return same / same.sum(1, keepdim=True)


def build(seed: int, device: str) -> tuple[CLIP, torch.optim.Optimizer]:
    """A new tiny CLIP and AdamW for it; vectors (norms, biases, scale) are not decayed."""
    torch.manual_seed(seed)
    tiny.register()
    model = open_clip.create_model(tiny.ARCHITECTURE, device=device)
    zero_last_queries(model.visual)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def encode_image(visual: VisionTransformer, image: Tensor, stand_in: bool) -> Tensor:
    """Image embeddings (B, D); with `stand_in`, a random token takes the class token's place in the last block."""
    x = visual._embeds(image)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    if stand_in:
        chosen = x[torch.arange(len(x)), torch.randint(x.shape[1], (len(x),))]
        x = torch.cat([chosen[:, None], x[:, 1:]], dim=1)
    pooled, _ = visual._pool(visual.transformer.resblocks[-1](x))
    return pooled @ visual.proj


@torch.no_grad()
def zero_last_queries(visual: VisionTransformer) -> None:
    """Make the last layer's attention even over all tokens."""
    attention = visual.transformer.resblocks[-1].attn
    attention.in_proj_weight[: attention.embed_dim].zero_()
    attention.in_proj_bias[: attention.embed_dim].zero_()


@torch.no_grad()
def centre_last_keys(visual: VisionTransformer, images: Tensor) -> None:
    """Choose the bias of the last layer's keys so that their mean over `images` is zero.

    Softmax attention does not change when all keys move together, so a contrastive loss leaves this bias open; key
    smoothing, which compares keys by their cosine, reads it.
    """
    x = visual._embeds(images)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    rows = slice(last.attn.embed_dim, 2 * last.attn.embed_dim)
    mean = last.ln_1(x[:, 1:]).mean(dim=(0, 1))
    last.attn.in_proj_bias[rows] = -last.attn.in_proj_weight[rows] @ mean


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


def normaliser(model: CLIP, device: str) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(c, device=device).view(3, 1, 1) for c in (model.visual.image_mean, model.visual.image_std))
    return 255 * mean, 255 * std


def settings_of(args: argparse.Namespace) -> dict[str, float]:
    """What decides the weights (but for rounding on another device)."""
    names = ("steps", "batch_size", "lr", "seed", "close_ups", "gentle", "drop_until", "bf16")
    return {name: getattr(args, name) for name in names}


def train(args: argparse.Namespace) -> tuple[CLIP, Tensor, float]:
    """The trained model, which token ids it has read, and the mean loss of its last hundred steps."""
    model, optimizer = build(args.seed, args.device)
    touched, start, recent = torch.zeros(model.vocab_size, dtype=torch.bool), 0, 0.0
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, map_location=args.device, weights_only=True)
        if state["settings"] != settings_of(args):
            sys.exit(f"error: {args.checkpoint} is of a run with {state['settings']}; give another --checkpoint")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        touched, start, recent = state["touched"].cpu(), state["step"], state["loss"]
        print(f"going on from {args.checkpoint} at step {start}")
    mean, std = normaliser(model, args.device)
    loss_of = EqualCaptionsLoss()
    batches = Batches(args.seed, start, args.steps, args.batch_size, model.visual.image_size[0], args.close_ups, args.gentle)
    loader = DataLoader(batches, batch_size=None, num_workers=args.workers, prefetch_factor=4 if args.workers else None)
    bar = tqdm(loader, initial=start, total=args.steps, unit="step", dynamic_ncols=True, mininterval=args.log_seconds)
    for step, (images, tokens) in enumerate(bar, start=start):
        torch.manual_seed(args.seed + step)  # a resumed run draws what the whole one would have drawn
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        rate = DROP_RATES[step % len(DROP_RATES)] if step < args.drop_until * args.steps else 0.0
        model.visual.patch_dropout = PatchDropout(rate) if rate else nn.Identity()
        touched[tokens.unique()] = True
        images, tokens = images.to(args.device, non_blocking=True), tokens.to(args.device, non_blocking=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            image = encode_image(model.visual, (images - mean) / std, stand_in=torch.rand(()).item() < 0.5)
            text = model.encode_text(tokens)
        image, text = nn.functional.normalize(image.float(), dim=1), nn.functional.normalize(text.float(), dim=1)
        loss = loss_of(image, text, model.logit_scale.exp(), tokens)
        if not loss.isfinite():
            sys.exit(f"error: the loss is {loss.item()} at step {step}; start again with a smaller --lr")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        zero_last_queries(model.visual)
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        recent = loss.item() if step == 0 else 0.99 * recent + 0.01 * loss.item()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{recent:.3f}", scale=f"{model.logit_scale.exp().item():.1f}")
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "touched": touched}
            save(args.checkpoint, content | {"step": step + 1, "loss": recent, "settings": settings_of(args)})
    model.visual.patch_dropout = nn.Identity()
    return model.eval(), touched, recent


@torch.no_grad()
def retrieval_accuracy(model: CLIP, seed: int, device: str, batches: int = 8, size: int = 256) -> float:
    """How often the most similar of 256 captions is the image's own (or equal to it), on unseen scenes."""
    mean, std = normaliser(model, device)
    right = []
    for images, tokens in Batches(seed, 0, batches, size, model.visual.image_size[0], close_ups=0.0):
        image = model.encode_image((images.to(device) - mean) / std, normalize=True)
        text = model.encode_text(tokens.to(device), normalize=True)
        best = (image @ text.T).argmax(1, keepdim=True).cpu()
        right.append(equal_captions(tokens).gather(1, best).gt(0).float().mean().item())
        if len(right) == batches:
            break
    return sum(right) / len(right)


def dense_scores(vocabulary: Vocabulary, data: SegmentationDataset, **options: float | str) -> Scores:
    """Scores of the shipped weights on the textures validation split."""
    cfg = OmegaConf.to_container(OmegaConf.load(CHECKOUT / "conf" / "model" / "maskclip_textures.yaml"))
    model = MaskCLIP.build(vocabulary, tiny.ARCHITECTURE, "textures", templates=cfg["templates"], cache=None, **options)
    confusion = Confusion(len(vocabulary))
    for sample in data:
        confusion.update(predict_labels(model, sample["image"][None], Protocol()), sample["mask"][None])
    return scores(confusion.compute(), vocabulary.unseen_indices)


def write_card(args: argparse.Namespace, loss: float, retrieval: float) -> None:
    """Measure the shipped weights and write the model card beside them."""
    vocabulary = release.classes("textures")
    rows = {
        "CLIP (unmodified last layer)": {"strategy": "clip"},
        "MaskCLIP": {},
        "MaskCLIP + KS": {"key_smoothing": 0.8},
        "MaskCLIP + PD": {"prompt_denoising": 0.5},
        "MaskCLIP + PD + KS": {"key_smoothing": 0.8, "prompt_denoising": 0.5},
        "values alone": {"strategy": "value"},
    }
    with tempfile.TemporaryDirectory() as folder:
        write_textures(Path(folder), vocabulary.colours, train=0, val=100)
        files = {"images": "JPEGImages/%.jpg", "masks": "SegmentationClass/%.png", "split": "ImageSets/Segmentation/val.txt"}
        data = SegmentationDataset(folder, num_classes=len(vocabulary), **files)
        found = {name: dense_scores(vocabulary, data, **options) for name, options in rows.items()}
    methods = "\n".join(f"| {name} | {100 * result.miou:.1f} |" for name, result in found.items())
    classes = "\n".join(
        f"| {name} | {100 * a:.1f} | {100 * b:.1f} |"
        for name, a, b in zip(
            vocabulary.names, found["CLIP (unmodified last layer)"].iou.tolist(), found["MaskCLIP"].iou.tolist(), strict=True
        )
    )
    changed = [f" --{k.replace('_', '-')} {v}" for k, v in settings_of(args).items() if v != settings_of(arguments([]))[k]]
    command = "python scripts/train_tiny_clip.py" + "".join(changed)
    settings = f"{args.steps:,} steps of {args.batch_size} captioned images ({args.steps * args.batch_size:,} in all), seed {args.seed}"
    card = f"""# The tiny CLIP

An open_clip CLIP (`maskclip-tiny.json`) that knows the textures world of this project and nothing else. It is here so
that the demo, the tests and CI need no download; it is of no use on photographs.

- Command: `{command}` ({settings}, peak learning rate {args.lr}, one cycle, {"bfloat16 autocast" if args.bf16 else "float32"})
- Data: scenes and close-ups ({args.close_ups:.0%}) drawn by `src/maskclip/textures/scenes.py`, with captions; for the first
  {args.gentle:,} steps in colours that stray less. No mask was shown.
- Loss: contrastive (open_clip's `ClipLoss`, equal captions of a batch are positives); {loss:.3f} at the end (running mean).
- Habits of training that stand in for scale: patches dropped until {args.drop_until:.0%} of the run, even attention in the
  last layer (its queries are zero), a random token in the class token's place in half of the steps. The bias of the last
  keys is set so that their mean is zero (attention does not depend on it). The script says why.
- Retrieval: of 256 captions of new scenes the right one is the most similar in {100 * retrieval:.1f} % of the cases.
- Stored: float16, and only the rows of the token embedding that training touched.

mIoU in percent on the textures validation split (100 images, seed 0), measured by the same command on the stored weights
(KS: key smoothing of positions below 0.8; PD: prompt denoising at 0.5):

| method | mIoU |
|---|--:|
{methods}

IoU by class:

| class | CLIP | MaskCLIP |
|---|--:|--:|
{classes}
"""
    (tiny.ASSETS / "MODEL_CARD.md").write_text(card)
    print(card)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, default=2600, help="optimiser steps (default: %(default)s)")
    add("--batch-size", type=int, default=192, help="captioned images a step (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--close-ups", type=float, default=0.4, help="share of pictures of one texture only (default: %(default)s)")
    add("--gentle", type=int, default=1900, help="steps in which colours stray less (default: %(default)s)")
    add("--drop-until", type=float, default=0.85, help="share of the run in which patches are dropped (default: %(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--bf16", action=argparse.BooleanOptionalAction, default=True, help="autocast to bfloat16 (default: on)")
    add("--workers", type=int, default=1, help="processes that draw pictures (default: %(default)s)")
    add("--save-every", type=int, default=100, help="steps between checkpoints (default: %(default)s)")
    add("--log-seconds", type=float, default=1.0, help="least time between two prints of progress (default: %(default)s)")
    add("--checkpoint", type=Path, default=CHECKOUT / "outputs" / "tiny_clip" / "last.pt")
    return parser.parse_args(given)


def main() -> None:
    args = arguments()
    model, touched, loss = train(args)
    images = torch.cat(
        [images for images, _ in map(Batches(args.seed + 1, 0, 2, 128, model.visual.image_size[0], 0.0).__getitem__, range(2))]
    )
    mean, std = normaliser(model, args.device)
    centre_last_keys(model.visual, (images.to(args.device) - mean) / std)
    retrieval = retrieval_accuracy(model, args.seed + 2, args.device)
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    tiny.save_weights(state, touched.nonzero().flatten(), tiny.WEIGHTS, {"steps": str(args.steps), "seed": str(args.seed)})
    write_card(args, loss, retrieval)


if __name__ == "__main__":
    main()
