"""MaskCLIP and MaskCLIP+: dense labels from CLIP without annotations (Zhou, Loy, Dai, ECCV 2022).

Names are imported when they are first used, so that a student, which needs no CLIP, loads where open_clip is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskclip.clip import DenseCLIP
    from maskclip.errors import InputError
    from maskclip.inference.labels import Prediction
    from maskclip.inference.predict import predict, predict_labels, predict_logits
    from maskclip.inference.protocol import Protocol
    from maskclip.models.maskclip import MaskCLIP
    from maskclip.models.released import Released
    from maskclip.models.student import Student, load_student
    from maskclip.vocabulary import Vocabulary

__all__ = [
    "DenseCLIP",
    "InputError",
    "MaskCLIP",
    "Prediction",
    "Protocol",
    "Released",
    "Student",
    "Vocabulary",
    "load_student",
    "predict",
    "predict_labels",
    "predict_logits",
]

_HOMES = {
    "DenseCLIP": "clip",
    "InputError": "errors",
    "MaskCLIP": "models.maskclip",
    "Prediction": "inference.labels",
    "Protocol": "inference.protocol",
    "Released": "models.released",
    "Student": "models.student",
    "Vocabulary": "vocabulary",
    "load_student": "models.student",
    "predict": "inference.predict",
    "predict_labels": "inference.predict",
    "predict_logits": "inference.predict",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'maskclip' has no attribute {name!r}")
    return getattr(import_module(f"maskclip.{_HOMES[name]}"), name)
