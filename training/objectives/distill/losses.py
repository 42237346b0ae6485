"""Distillation losses between a student's and a frozen teacher's features, in float32.

`similarity` is the distillation of lightly-train (its v1 for class tokens, with the batch as the queue; the local part
of its v3 for patches), `mse` its v2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Compared


def feature_loss(student: Tensor, teacher: Tensor, compared: Compared, temperature: float) -> Tensor:
    """The loss of features (..., M, D) against the teacher's for the same tokens, as a scalar.

    Args:
        student: gradients flow through them.
        teacher: of the same shape; no gradient.
        compared: `cosine` is 1 minus the cosine, `mse` the squared difference, both as means; `similarity` compares
            the similarities among the M tokens of a group.
        temperature: of the softmax over similarities; unused by the others.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = student.float(), teacher.detach().float()
        if compared == "mse":
            return F.mse_loss(student, teacher)
        student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
        if compared == "cosine":
            return 1 - (student * teacher).sum(-1).mean()
        if student.dim() == 2:  # class tokens: both are compared with the teacher's
            return similarity_divergence(student @ teacher.T, teacher @ teacher.T, temperature)
        return similarity_divergence(student @ student.mT, teacher @ teacher.mT, temperature)


def similarity_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over rows of KL(teacher || student) between softmaxes of similarities (..., M, K), in nats."""
    student_logs = (student / temperature).log_softmax(-1).flatten(0, -2)
    teacher_logs = (teacher / temperature).log_softmax(-1).flatten(0, -2)
    return F.kl_div(student_logs, teacher_logs, reduction="batchmean", log_target=True)
