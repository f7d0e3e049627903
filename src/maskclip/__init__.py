"""MaskCLIP and MaskCLIP+: dense labels from CLIP without annotations (Zhou, Loy, Dai, ECCV 2022)."""

from maskclip.clip import DenseCLIP
from maskclip.errors import InputError
from maskclip.inference import Protocol, predict_labels, predict_logits
from maskclip.models import MaskCLIP, Released, Student, load_student
from maskclip.vocabulary import Vocabulary

__all__ = [
    "DenseCLIP",
    "InputError",
    "MaskCLIP",
    "Protocol",
    "Released",
    "Student",
    "Vocabulary",
    "load_student",
    "predict_labels",
    "predict_logits",
]
