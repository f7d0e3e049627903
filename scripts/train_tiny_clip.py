"""Train the tiny CLIP on captioned synthetic scenes, without masks.

    python scripts/train_tiny_clip.py                 # under an hour on two CPU cores
    python scripts/train_tiny_clip.py --device cuda   # minutes

Run the same command again to resume an interrupted run. The weights and their model card are written to
src/maskclip/assets at the end. The model and the contrastive loss are those of open_clip, except that equal captions in a
batch are positives. Three changes replace the scale of a real CLIP. Without them, a model of this size classifies images by a
few patches, and the values of the other patches are not discriminative:

- Patches are dropped at several rates (FLIP: Li et al., CVPR 2023), so that every patch becomes discriminative.
- The queries of the last layer are zero, so that its attention is uniform over all tokens.
- In half of the steps, a random token replaces the class token in the last block.
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
from maskclip.files import CHECKOUT, replacing
from maskclip.prepare import release
from maskclip.textures.dataset import write_textures
from maskclip.textures.scenes import GENTLE_JITTER, JITTER, stream

DROP_RATES = (0.75, 0.5, 0.5, 0.0)
"""Shares of dropped patches, which alternate from step to step, until `--drop-until`."""


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batches of uint8 images (B, 3, H, W) and token ids (B, L). Batch i is a function of the seed and i.

    The first `gentle` batches have weaker colour jitter.
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
    """open_clip's contrastive loss, with all images of a batch that have the same caption as positives."""

    targets: Tensor

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        return self.targets

    def forward(self, image: Tensor, text: Tensor, logit_scale: Tensor, tokens: Tensor) -> Tensor:
        self.targets = equal_captions(tokens)
        return super().forward(image, text, logit_scale)


def equal_captions(tokens: Tensor) -> Tensor:
    """Targets (B, B) of the captions of a batch: uniform over equal captions, rows sum to 1."""
    same = (tokens[:, None] == tokens).all(-1).float()
    return same / same.sum(1, keepdim=True)


def build(seed: int, device: str) -> tuple[CLIP, torch.optim.Optimizer]:
    """A new tiny CLIP and its AdamW, without weight decay for vectors (norms, biases, logit scale)."""
    torch.manual_seed(seed)
    tiny.register()
    model = open_clip.create_model(tiny.ARCHITECTURE, device=device)
    zero_last_queries(model.visual)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def encode_image(visual: VisionTransformer, image: Tensor, random_token: bool) -> Tensor:
    """Image embeddings (B, D); with `random_token`, a random token replaces the class token in the last block."""
    x = visual._embeds(image)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    if random_token:
        tokens = x[torch.arange(len(x)), torch.randint(x.shape[1], (len(x),))]
        x = torch.cat([tokens[:, None], x[:, 1:]], dim=1)
    pooled, _ = visual._pool(visual.transformer.resblocks[-1](x))
    return pooled @ visual.proj


@torch.no_grad()
def zero_last_queries(visual: VisionTransformer) -> None:
    """Make the attention of the last layer uniform over all tokens."""
    attention = visual.transformer.resblocks[-1].attn
    attention.in_proj_weight[: attention.embed_dim].zero_()
    attention.in_proj_bias[: attention.embed_dim].zero_()


@torch.no_grad()
def centre_last_keys(visual: VisionTransformer, images: Tensor) -> None:
    """Set the bias of the last layer's keys such that their mean over `images` is zero.

    Softmax attention does not depend on this bias, so the contrastive loss does not determine it. Key smoothing does depend on
    it, because it compares keys by their cosine.
    """
    x = visual._embeds(images)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    rows = slice(last.attn.embed_dim, 2 * last.attn.embed_dim)
    mean = last.ln_1(x[:, 1:]).mean(dim=(0, 1))
    last.attn.in_proj_bias[rows] = -last.attn.in_proj_weight[rows] @ mean


def learning_rate(step: int, steps: int, peak: float) -> float:
    """The learning rate of a step: linear warm-up for a twentieth of the run, then a cosine to zero."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def save(path: Path, content: dict) -> None:
    """Write a checkpoint; atomic."""
    with replacing(path) as partial:
        torch.save(content, partial)


def normaliser(model: CLIP, device: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3, 1, 1) of pixels in 0..255."""
    mean, std = (torch.tensor(c, device=device).view(3, 1, 1) for c in (model.visual.image_mean, model.visual.image_std))
    return 255 * mean, 255 * std


def settings_of(args: argparse.Namespace) -> dict[str, float]:
    """The settings that determine the weights, up to rounding on another device."""
    names = ("steps", "batch_size", "lr", "seed", "close_ups", "gentle", "drop_until", "bf16")
    return {name: getattr(args, name) for name in names}


def restored(args: argparse.Namespace, model: CLIP, optimizer: torch.optim.Optimizer) -> tuple[Tensor, int, float]:
    """Load the checkpoint, if there is one, and return the mask of used token ids, the next step and the mean loss."""
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if not args.checkpoint.exists():
        return torch.zeros(model.vocab_size, dtype=torch.bool), 0, 0.0
    state = torch.load(args.checkpoint, map_location=args.device, weights_only=True)
    if state["settings"] != settings_of(args):
        sys.exit(f"error: {args.checkpoint} has other settings, {state['settings']}: choose another --checkpoint")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    print(f"resuming {args.checkpoint} at step {state['step']}")
    return state["used_tokens"].cpu(), state["step"], state["loss"]


def train(args: argparse.Namespace) -> tuple[CLIP, Tensor, float]:
    """The trained model, a mask of the token ids in its captions, and the running mean of its loss."""
    model, optimizer = build(args.seed, args.device)
    used_tokens, start, recent = restored(args, model, optimizer)
    mean, std = normaliser(model, args.device)
    loss_of = EqualCaptionsLoss()
    batches = Batches(args.seed, start, args.steps, args.batch_size, model.visual.image_size[0], args.close_ups, args.gentle)
    loader = DataLoader(batches, batch_size=None, num_workers=args.workers, prefetch_factor=4 if args.workers else None)
    bar = tqdm(loader, initial=start, total=args.steps, unit="step", dynamic_ncols=True, mininterval=args.log_seconds)
    for step, (images, tokens) in enumerate(bar, start=start):
        torch.manual_seed(args.seed + step)  # resumed runs equal uninterrupted ones
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        rate = DROP_RATES[step % len(DROP_RATES)] if step < args.drop_until * args.steps else 0.0
        model.visual.patch_dropout = PatchDropout(rate) if rate else nn.Identity()
        used_tokens[tokens.unique()] = True
        images, tokens = images.to(args.device, non_blocking=True), tokens.to(args.device, non_blocking=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            image = encode_image(model.visual, (images - mean) / std, random_token=torch.rand(()).item() < 0.5)
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
            content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "used_tokens": used_tokens}
            save(args.checkpoint, content | {"step": step + 1, "loss": recent, "settings": settings_of(args)})
    model.visual.patch_dropout = nn.Identity()
    return model.eval(), used_tokens, recent


@torch.no_grad()
def retrieval_accuracy(model: CLIP, seed: int, device: str, batches: int = 8, size: int = 256) -> float:
    """Share of new scenes whose own caption (or an equal one) is the most similar of 256."""
    mean, std = normaliser(model, device)
    accuracies = []
    for images, tokens in Batches(seed, 0, batches, size, model.visual.image_size[0], close_ups=0.0):
        image = model.encode_image((images.to(device) - mean) / std, normalize=True)
        text = model.encode_text(tokens.to(device), normalize=True)
        best = (image @ text.T).argmax(1, keepdim=True).cpu()
        accuracies.append(equal_captions(tokens).gather(1, best).gt(0).float().mean().item())
        if len(accuracies) == batches:
            break
    return sum(accuracies) / len(accuracies)


def dense_scores(vocabulary: Vocabulary, data: SegmentationDataset, **options: float | str) -> Scores:
    """Scores of the stored weights on the validation split of the textures data set."""
    cfg = OmegaConf.to_container(OmegaConf.load(CHECKOUT / "conf" / "model" / "maskclip_textures.yaml"))
    model = MaskCLIP.build(vocabulary, tiny.ARCHITECTURE, "textures", templates=cfg["templates"], cache=None, **options)
    confusion = Confusion(len(vocabulary))
    for sample in data:
        confusion.update(predict_labels(model, sample["image"][None], Protocol()), sample["mask"][None])
    return scores(confusion.compute(), vocabulary.unseen_indices)


def validation_scores(vocabulary: Vocabulary) -> dict[str, Scores]:
    """Scores of the shipped weights on the validation split, by method."""
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
        return {name: dense_scores(vocabulary, data, **options) for name, options in rows.items()}


def write_card(args: argparse.Namespace, loss: float, retrieval: float) -> None:
    """Measure the shipped weights and write the model card beside them."""
    vocabulary = release.read_classes("textures")
    results = validation_scores(vocabulary)
    methods = "\n".join(f"| {name} | {100 * result.miou:.1f} |" for name, result in results.items())
    classes = "\n".join(
        f"| {name} | {100 * a:.1f} | {100 * b:.1f} |"
        for name, a, b in zip(
            vocabulary.names, results["CLIP (unmodified last layer)"].iou.tolist(), results["MaskCLIP"].iou.tolist(), strict=True
        )
    )
    changed = [f" --{k.replace('_', '-')} {v}" for k, v in settings_of(args).items() if v != settings_of(arguments([]))[k]]
    command = "python scripts/train_tiny_clip.py" + "".join(changed)
    settings = f"{args.steps:,} steps of {args.batch_size} captioned images ({args.steps * args.batch_size:,} in all), seed {args.seed}"
    card = f"""# The tiny CLIP

An open_clip CLIP (`maskclip-tiny.json`), trained on the synthetic scenes of this project only. With it, the demo, the tests
and CI need no download. It does not work on photographs.

- Command: `{command}` ({settings}, peak learning rate {args.lr}, one cycle, {"bfloat16 autocast" if args.bf16 else "float32"})
- Data: scenes and close-ups ({args.close_ups:.0%}) from `src/maskclip/textures/scenes.py`, with captions and without masks; colour
  jitter is weaker in the first {args.gentle:,} steps.
- Loss: contrastive (open_clip's `ClipLoss`, equal captions of a batch are positives); {loss:.3f} at the end (running mean).
- Changes that replace scale (the script explains them): patches are dropped until {args.drop_until:.0%} of the run, attention is
  uniform in the last layer (its queries are zero), and a random token replaces the class token in half of the steps. The bias
  of the last keys is set such that their mean is zero (attention does not depend on it).
- Retrieval: the right one of 256 captions is the most similar for {100 * retrieval:.1f} % of new scenes.
- Stored: float16, and only the rows of the token embedding that occur in captions.

mIoU in percent on the validation split of the textures data set (100 images, seed 0), from the same command and the stored weights
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


def arguments(command_line: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, default=2600, help="optimiser steps (default: %(default)s)")
    add("--batch-size", type=int, default=192, help="captioned images per step (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--close-ups", type=float, default=0.4, help="share of images with a single texture (default: %(default)s)")
    add("--gentle", type=int, default=1900, help="steps with weaker colour jitter (default: %(default)s)")
    add("--drop-until", type=float, default=0.85, help="share of the run in which patches are dropped (default: %(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--bf16", action=argparse.BooleanOptionalAction, default=True, help="autocast to bfloat16 (default: on)")
    add("--workers", type=int, default=1, help="processes that draw images (default: %(default)s)")
    add("--save-every", type=int, default=100, help="steps between checkpoints (default: %(default)s)")
    add("--log-seconds", type=float, default=1.0, help="seconds between updates of the progress bar (default: %(default)s)")
    add("--checkpoint", type=Path, default=CHECKOUT / "outputs" / "tiny_clip" / "last.pt")
    return parser.parse_args(command_line)


def main() -> None:
    args = arguments()
    model, used_tokens, loss = train(args)
    images = torch.cat(
        [images for images, _ in map(Batches(args.seed + 1, 0, 2, 128, model.visual.image_size[0], 0.0).__getitem__, range(2))]
    )
    mean, std = normaliser(model, args.device)
    centre_last_keys(model.visual, (images.to(args.device) - mean) / std)
    retrieval = retrieval_accuracy(model, args.seed + 2, args.device)
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    tiny.save_weights(state, used_tokens.nonzero().flatten(), tiny.WEIGHTS, {"steps": str(args.steps), "seed": str(args.seed)})
    write_card(args, loss, retrieval)


if __name__ == "__main__":
    main()
