"""Time of text embeddings: prompts cut after the longest one, against prompts padded to the full context."""

from __future__ import annotations

import statistics

import torch

from benchmarks.timing import take_turns
from maskclip.clip.loading import create, load_tokenizer
from maskclip.clip.text import encode_text
from maskclip.clip.text_embeddings import TEMPLATE_SETS, tokenize

WORDS = ["airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"]
WORDS += ["dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"]


@torch.inference_mode()
def benchmark_text(architecture: str, runs: int, device: torch.device) -> None:
    """Print the seconds that 20 class names in 85 templates take with cut and with padded prompts, and their ratio."""
    model, tokenizer = create(architecture).eval().to(device), load_tokenizer(architecture)
    batches = [tokenize(tokenizer, word, TEMPLATE_SETS["maskclip"]).to(device) for word in WORDS]
    turns = take_turns(
        lambda: [encode_text(model, tokens) for tokens in batches], lambda: [model.encode_text(tokens) for tokens in batches], runs, device
    )
    cut, padded = (statistics.median(column) for column in zip(*turns, strict=True))
    ratio = statistics.median(b / a for a, b in turns)
    print(f"{architecture}, random weights, {len(WORDS)} class names x 85 templates, {device.type}")
    print(f"cut after the longest prompt: {cut:.1f} s; padded to the full context: {padded:.1f} s; ratio {ratio:.1f}x")
