"""Gram anchoring: keeps similarities between patches close to an earlier, frozen teacher's (DINOv3, arXiv 2508.10104).

In long runs patch tokens become similar to the class token, and scores on dense tasks fall. The loss
(`dinov3/loss/gram_loss.py`) compares matrices of similarities, not features, so that features can still improve. It is
computed in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import GramConfig


def gram_loss(student: Tensor, teacher: Tensor, config: GramConfig) -> Tensor:
    """Mean squared difference of the two Gram matrices, their diagonals included.

    Args:
        student: patch tokens (B, N, D), or (T, D) of several images in one row; gradients flow through them.
        teacher: the same patches of the Gram teacher; no gradient.
        config: `normalize` scales tokens to unit length first. `per_image` compares patches within an image, else
            within the batch. `negatives`: similarities below 0 are kept, set to 0 on both sides ("both"), or only for
            the teacher ("teacher"; the reference's `remove_only_teacher_neg` has this effect, because it looks for
            common negatives after clearing the teacher's).

    Returns:
        A scalar; without patches it is 0, and still has a gradient.
    """
    with torch.autocast(student.device.type, enabled=False):
        student_tokens, teacher_tokens = student.float(), teacher.detach().float()
        if config.normalize:
            student_tokens, teacher_tokens = F.normalize(student_tokens, dim=-1), F.normalize(teacher_tokens, dim=-1)
        if not config.per_image:
            student_tokens, teacher_tokens = (
                student_tokens.reshape(-1, student_tokens.shape[-1]),
                teacher_tokens.reshape(-1, teacher_tokens.shape[-1]),
            )
        if not student_tokens.numel():
            return student_tokens.sum()
        student_gram = student_tokens @ student_tokens.transpose(-1, -2)
        teacher_gram = teacher_tokens @ teacher_tokens.transpose(-1, -2)
        if config.negatives != "keep":
            teacher_gram = teacher_gram.clamp_min(0)
        if config.negatives == "both":
            student_gram = student_gram.clamp_min(0)
        return F.mse_loss(student_gram, teacher_gram)


def resize_patches(patches: Tensor, grid: tuple[int, int], to: tuple[int, int], config: GramConfig) -> Tensor:
    """The Gram teacher's patch tokens (B, N, D) of `grid` (rows, columns), resized to the student's grid: (B, N', D).

    As in the reference, tokens are resized before they are normalised.
    """
    if grid == to:
        return patches
    maps = patches.transpose(1, 2).unflatten(2, grid)
    resized = F.interpolate(maps, size=to, mode=config.resize, align_corners=False, antialias=config.antialias)
    return resized.flatten(2).transpose(1, 2)
