"""Distillation by features: a student's tokens, through a learned projection, tell those of a frozen teacher."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biovfm_hf.modeling_biovfm import BioVFMModel

from ...schedule import StepValues
from .config import DistillConfig
from .losses import feature_loss


class DistillObjective(nn.Module):
    """Student, projections and teacher in one module; the teacher needs no gradient and stays in evaluation mode.

    Args:
        student: the encoder that is trained.
        teacher: the encoder that is learned from, of any width and patch size.
        config: what is compared, and weights.
        rescale: (3, 2): factor and offset per channel that turn the student's pixels into those that the teacher was
            normalised to.
    """

    rescale: Tensor

    def __init__(self, student: BioVFMModel, teacher: BioVFMModel, config: DistillConfig, rescale: Tensor) -> None:
        super().__init__()
        self.config = config
        widths = student.config.hidden_size, teacher.config.hidden_size
        self.student = student
        self.cls_head = nn.Linear(*widths)
        self.patch_head = nn.Linear(*widths) if config.patch_weight else None
        self.teacher = teacher.requires_grad_(False).eval()
        self.register_buffer("rescale", rescale)

    def train(self, mode: bool = True) -> "DistillObjective":
        """Training mode for the student; the teacher never drops a path."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Mapping[str, Any], values: StepValues) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch.

        Args:
            batch: `global_crops` (B, 3, H, W), which both encoders see.
            values: of this step; none is read here.

        Returns:
            The weighted sum, and the terms detached: `cls_loss`, and `patch_loss` where it has a weight.
        """
        crops, config = batch["global_crops"], self.config
        with torch.no_grad():
            target_cls, target_patches = _cls_and_map(self.teacher, self._as_the_teacher_sees(crops))
        cls_token, patches = _cls_and_map(self.student, crops)
        loss = feature_loss(self.cls_head(cls_token), target_cls, config.cls_loss, config.temperature)
        terms, total = {"cls_loss": loss.detach()}, config.cls_weight * loss
        if self.patch_head is not None:
            if patches.shape[-2:] != target_patches.shape[-2:]:
                patches = F.interpolate(patches, target_patches.shape[-2:], mode="bilinear", align_corners=False)
            ours, theirs = (features.flatten(2).mT for features in (patches, target_patches))
            loss = feature_loss(self.patch_head(ours), theirs, config.patch_loss, config.temperature)
            terms["patch_loss"], total = loss.detach(), total + config.patch_weight * loss
        return total, terms

    def _as_the_teacher_sees(self, crops: Tensor) -> Tensor:
        """The crops in the teacher's normalisation, and of the nearest size that its patches divide."""
        factor, offset = self.rescale.to(crops.dtype)[:, :, None, None].unbind(1)
        crops = crops * factor + offset
        side = teacher_side(crops.shape[-1], self.teacher.config.patch_size)
        if side == crops.shape[-1]:
            return crops
        return F.interpolate(crops, (side, side), mode="bicubic", align_corners=False, antialias=True)


def teacher_side(side: int, patch_size: int) -> int:
    """The side in pixels that the teacher sees of a crop of `side`: the nearest multiple of its patch size."""
    return max(round(side / patch_size), 1) * patch_size


def _cls_and_map(encoder: BioVFMModel, crops: Tensor) -> tuple[Tensor, Tensor]:
    """Class tokens (B, D) and patch tokens as maps (B, D, rows, columns), after the last norm."""
    tokens = encoder(crops).last_hidden_state
    rows, columns = (side // encoder.config.patch_size for side in crops.shape[-2:])
    return tokens[:, 0], tokens[:, -rows * columns :].mT.unflatten(2, (rows, columns))
