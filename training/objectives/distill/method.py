"""Distillation as the loop knows it."""

from functools import cache

import torch
from torch import Tensor, nn

from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.conversion.read import IMAGENET, Encoder, read_encoder
from biovfm_hf.errors import UserError
from biovfm_hf.flops import Architecture

from ...settings.augment import CropSizes
from ..initial import build_encoder, take_over, with_run
from ..method import Method, mean_over_sizes
from .config import DistillTrainConfig
from .objective import DistillObjective, teacher_side


class DistillMethod(Method[DistillTrainConfig, DistillObjective]):
    """A student that is exported, and a frozen teacher; everything else is as the base class has it."""

    def build(self, config: DistillTrainConfig, model_config: BioVFMConfig) -> DistillObjective:
        """Student, projections and teacher; from an earlier run all of it, so the teacher has to be of one kind."""
        read = _read_teacher(config.distill.teacher)
        if read.config.num_channels != model_config.num_channels:
            raise UserError(
                f"distill.teacher {config.distill.teacher} takes {read.config.num_channels} channel(s), the student "
                f"{model_config.num_channels}; give model.num_channels={read.config.num_channels}"
            )
        teacher = BioVFMModel(_undisturbed(read.config))
        take_over(teacher, _encoder_tensors(read), str(config.distill.teacher), "distill.teacher")
        student = build_encoder(config, model_config)
        return with_run(DistillObjective(student, teacher, config.distill, _rescale(config, read)), config)

    def exported(self, objective: DistillObjective) -> dict[str, nn.Module]:
        """The student's encoder, without the projections."""
        return {"model": objective.student}

    def flops_per_image(self, config: DistillTrainConfig, model_config: BioVFMConfig) -> float:
        """The student's forward and backward passes, and the teacher's forward pass."""
        teacher = _teacher_config(config.distill.teacher)

        def taught(sizes: CropSizes) -> float:
            return Architecture.of(teacher).forward_flops(teacher_side(sizes.global_size, teacher.patch_size))

        return super().flops_per_image(config, model_config) + mean_over_sizes(config, taught)


@cache
def _teacher_config(source: str | None) -> BioVFMConfig:
    return _read_teacher(source).config if source else BioVFMConfig.from_size("vit-large")


def _assumed_teacher() -> Encoder:
    """What estimates take for a teacher that is not named yet: a ViT-L, without values."""
    config = BioVFMConfig.from_size("vit-large")
    return Encoder(config, BioVFMModel(config).state_dict(), [], IMAGENET, {})


def _read_teacher(source: str | None) -> Encoder:
    if source is None and torch.get_default_device().type == "meta":
        return _assumed_teacher()
    if source is None:
        raise UserError(
            "distill.teacher is missing; name a model folder, Hub id or weight file with distill.teacher=M"
        )
    try:
        with torch.device("cpu"):  # an outline of the objective is made on no device
            return read_encoder(source)
    except UserError as error:
        raise UserError(f"distill.teacher {error}") from error


def _undisturbed(config: BioVFMConfig) -> BioVFMConfig:
    """The teacher's configuration without stochastic depth, and without the mask token that only training needs."""
    return BioVFMConfig.from_dict({**config.to_dict(), "drop_path_rate": 0.0, "use_mask_token": False})


def _encoder_tensors(read: Encoder) -> dict[str, Tensor]:
    names = {name: name.removeprefix("biovfm.") for name in read.tensors if not name.startswith("decoder.")}
    return {ours: read.tensors[name] for name, ours in names.items() if not ours.endswith("mask_token")}


def _rescale(config: DistillTrainConfig, read: Encoder) -> Tensor:
    """(3, 2): from the run's normalisation of pixels to the teacher's."""
    mean, std = torch.tensor(config.augment.mean), torch.tensor(config.augment.std)
    their_mean, their_std = (torch.tensor(read.normalisation[name]) for name in ("image_mean", "image_std"))
    return torch.stack([std / their_std, (mean - their_mean) / their_std], dim=1)


METHOD = DistillMethod()
