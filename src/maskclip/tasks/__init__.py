"""The Lightning modules and callbacks: they call the functions that compute, and compute nothing themselves."""

from maskclip.tasks.evaluation import Evaluation
from maskclip.tasks.maskclip_plus import MaskCLIPPlus

__all__ = ["Evaluation", "MaskCLIPPlus"]
