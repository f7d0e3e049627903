"""CLIP's image towers, read densely."""

from maskclip.clip.dense import DenseCLIP, Frozen
from maskclip.clip.loading import load_clip, weights_sha256
from maskclip.clip.strategies import STRATEGIES

__all__ = ["STRATEGIES", "DenseCLIP", "Frozen", "load_clip", "weights_sha256"]
