"""The programs behind src/*.py: the only modules that know Hydra and OmegaConf."""

from maskclip.programs.common import program
from maskclip.programs.embedding import embed_text
from maskclip.programs.evaluating import evaluate
from maskclip.programs.segmenting import segment
from maskclip.programs.training import export, train

__all__ = ["embed_text", "evaluate", "export", "program", "segment", "train"]
