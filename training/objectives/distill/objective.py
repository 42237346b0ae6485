"""Distillation by features: a student's tokens, through a learned projection, predict a frozen teacher's."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biovfm_hf.errors import UserError
from biovfm_hf.modeling_biovfm import BioVFMModel

from ...schedule import StepValues
from .config import MAIN, DistillConfig
from .losses import feature_loss
from .teacher import Features, Teacher, cls_and_map

logger = logging.getLogger(__name__)

_WHOLE = 2**32  # smaller marks are those of earlier versions


class Student(nn.Module):
    """A trained encoder, and the layers that project its features to the teacher's width.

    Args:
        encoder: a `BioVFMModel`, or a timm network, whose mean over its last map serves as class token.
        width: of the encoder's features.
        teacher_width: of the teacher's.
        patches: whether patch tokens are compared, too.
    """

    def __init__(self, encoder: nn.Module, width: int, teacher_width: int, patches: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.cls_head = nn.Linear(width, teacher_width)
        self.patch_head = nn.Linear(width, teacher_width) if patches else None

    def features(self, crops: Tensor) -> Features:
        """Class tokens (B, D) and patch tokens as maps (B, D, rows, columns)."""
        if isinstance(self.encoder, BioVFMModel):
            return cls_and_map(self.encoder, crops)
        maps = self.encoder.forward_features(crops)  # type: ignore[operator]
        if str(getattr(self.encoder, "output_fmt", "NCHW")).endswith("NHWC"):
            maps = maps.movedim(-1, 1)
        return maps.mean(dim=(2, 3)), maps


class DistillObjective(nn.Module):
    """Students and teacher in one module; the teacher needs no gradient, and is not saved with the state.

    Args:
        students: name -> student; `model` is the one of the model section.
        teacher: the frozen teacher.
        config: losses and weights.
    """

    teacher_mark: Tensor

    def __init__(self, students: Mapping[str, Student], teacher: Teacher, config: DistillConfig) -> None:
        super().__init__()
        self.config = config
        self.students = nn.ModuleDict(students)
        self.teacher = teacher
        self._mark: int | None = None if next(teacher.parameters()).is_meta else teacher.mark()
        self.register_buffer("teacher_mark", torch.zeros((), dtype=torch.int64))
        self.sign()
        self.register_state_dict_post_hook(_without_teacher)

    def sign(self) -> None:
        """Record this teacher's checksum as the run's first; a restored checkpoint replaces it by its own."""
        if self._mark is not None:
            self.teacher_mark.fill_(self._mark)

    def forward(self, batch: Mapping[str, Any], values: StepValues) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch.

        Args:
            batch: `global_crops` (B, 3, H, W), which all encoders see.
            values: of this step; none is read here.

        Returns:
            The sum over students of their weighted losses, and the detached terms: `cls_loss`, and `patch_loss` if it
            has a weight; further students' terms end in their names.

        Raises:
            UserError: the teacher is not the one that the run began with.
        """
        self._check_teacher()
        crops = batch["global_crops"]
        targets = self.teacher(crops)
        totals, terms = [], dict[str, Tensor]()
        for name, student in self.students.items():
            if name != MAIN:  # its draws (stochastic depth, rotary positions) are those that it would have alone
                torch.manual_seed(torch.initial_seed())
            total, losses = self._loss(student, crops, targets)
            totals.append(total)
            terms |= {term if name == MAIN else f"{term}_{name}": value for term, value in losses.items()}
        return torch.stack(totals).sum(), terms

    def _loss(self, student: Any, crops: Tensor, targets: Features) -> tuple[Tensor, dict[str, Tensor]]:
        config, (target_cls, target_patches) = self.config, targets
        cls_token, patches = student.features(crops)
        loss = feature_loss(student.cls_head(cls_token), target_cls, config.cls_loss, config.temperature)
        terms, total = {"cls_loss": loss.detach()}, config.cls_weight * loss
        if student.patch_head is not None:
            if patches.shape[-2:] != target_patches.shape[-2:]:
                patches = F.interpolate(patches, target_patches.shape[-2:], mode="bilinear", align_corners=False)
            tokens, target_tokens = (features.flatten(2).mT for features in (patches, target_patches))
            loss = feature_loss(student.patch_head(tokens), target_tokens, config.patch_loss, config.temperature)
            terms["patch_loss"], total = loss.detach(), total + config.patch_weight * loss
        return total, terms

    def _check_teacher(self) -> None:
        """Check once, when training begins or continues, that a restored checkpoint has the same teacher."""
        if self._mark is not None and int(self.teacher_mark) < _WHOLE:
            logger.warning(
                "the run began with an earlier version, which noted too little of distill.teacher to tell whether it "
                "has changed since; from here on a changed teacher is refused"
            )
            self.sign()
        if self._mark is not None and int(self.teacher_mark) != self._mark:
            raise UserError(
                "distill.teacher is not as it was when the run began (its weights, normalisation or config.json); put "
                "it back, or use another --out"
            )
        self._mark = None


def _without_teacher(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}teacher.")]:
        del state[name]
