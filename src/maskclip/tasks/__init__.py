"""The Lightning modules: when to call what, never how to compute it."""

from maskclip.tasks.evaluation import Evaluation
from maskclip.tasks.maskclip_plus import MaskCLIPPlus
from maskclip.tasks.segmentation import Segmentation

__all__ = ["Evaluation", "MaskCLIPPlus", "Segmentation"]
