"""A frozen CLIP: image towers with dense features, text embeddings and weights."""

from maskclip.clip.dense import DenseCLIP
from maskclip.clip.frozen import Frozen
from maskclip.clip.loading import load_clip
from maskclip.clip.proxy import Proxy
from maskclip.clip.strategies import STRATEGIES

__all__ = ["STRATEGIES", "DenseCLIP", "Frozen", "Proxy", "load_clip"]
