"""What turns images into class logits: MaskCLIP and the students of MaskCLIP+."""

from maskclip.models.maskclip import MaskCLIP
from maskclip.models.released import Released
from maskclip.models.student import Student, load_student

__all__ = ["MaskCLIP", "Released", "Student", "load_student"]
