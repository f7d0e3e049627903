"""An exponential moving average of a student's weights."""

from __future__ import annotations

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from maskclip.models.student import Student


def averaged(student: Student, decay: float) -> AveragedModel:
    """A copy of `student` whose weights and batch statistics become averages with this decay; it is not trained.

    Source: Mean Teacher (Tarvainen and Valpola, NeurIPS 2017).
    """
    model = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    model.requires_grad_(False)
    return model.eval()
