"""The programs behind src/*.py: the only modules that know Hydra and OmegaConf."""

import maskclip.threads  # noqa: F401 - before torch
from maskclip.programs.common import program
from maskclip.programs.embedding import embed
from maskclip.programs.evaluating import evaluate
from maskclip.programs.segmenting import segment
from maskclip.programs.training import export, train

__all__ = ["embed", "evaluate", "export", "program", "segment", "train"]
