"""The programs behind src/*.py: the only modules that import Hydra and OmegaConf."""

import maskclip.threads  # noqa: F401 - before torch
from maskclip.programs.common import entry_point
from maskclip.programs.embedding import embed_text
from maskclip.programs.evaluating import evaluate
from maskclip.programs.segmenting import segment
from maskclip.programs.training import export, train

__all__ = ["embed_text", "entry_point", "evaluate", "export", "segment", "train"]
