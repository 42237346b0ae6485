"""Gram anchoring: keeps similarities between patches close to an earlier, frozen teacher's (DINOv3, arXiv 2508.10104).

In long runs patch tokens drift towards the class token, and dense tasks suffer. The loss
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
        a scalar; 0 with a gradient if there are no patches.
    """
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = student.float(), teacher.detach().float()
        if config.normalize:
            ours, theirs = F.normalize(ours, dim=-1), F.normalize(theirs, dim=-1)
        if not config.per_image:
            ours, theirs = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1])
        if not ours.numel():
            return ours.sum()
        ours, theirs = ours @ ours.transpose(-1, -2), theirs @ theirs.transpose(-1, -2)
        if config.negatives != "keep":
            theirs = theirs.clamp_min(0)
        if config.negatives == "both":
            ours = ours.clamp_min(0)
        return F.mse_loss(ours, theirs)


def resize_patches(patches: Tensor, grid: tuple[int, int], to: tuple[int, int], config: GramConfig) -> Tensor:
    """The Gram teacher's patch tokens (B, N, D) of `grid` (rows, columns) on the student's: (B, N', D).

    As in the reference, this comes before normalisation.
    """
    if grid == to:
        return patches
    maps = patches.transpose(1, 2).unflatten(2, grid)
    resized = F.interpolate(maps, size=to, mode=config.resize, align_corners=False, antialias=config.antialias)
    return resized.flatten(2).transpose(1, 2)
