"""Loads a frozen teacher of any kind: class token and patch-token map from crops in a run's normalisation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import biovfm_hf
from biovfm_hf import BioVFMConfig, BioVFMModel
from biovfm_hf.conversion.place import UnknownFamilyError
from biovfm_hf.conversion.read import IMAGENET, ConvertedEncoder, read_encoder
from biovfm_hf.errors import UserError
from biovfm_hf.flops import Architecture

from ..initial import encoder_tensors, take_over
from ..marks import mark_of, settings_of
from .config import DistillTrainConfig, are_weights

Features = tuple[Tensor, Tensor]  # (B, D) class tokens, (B, D, rows, columns) patch tokens


class Teacher(nn.Module):
    """A frozen encoder in evaluation mode.

    Args:
        module: the encoder.
        read: (module, its pixels) -> `Features`.
        patch_size: of its patches, or the stride of its first convolution.
        fixed: the only side in pixels that it takes; None if it takes any.
        rescale: (3, 2): factor and offset per channel from the run's normalisation to the teacher's.
        settings: whatever else its features depend on, in the form of JSON.
    """

    rescale: Tensor

    def __init__(
        self,
        module: nn.Module,
        read: Callable[[nn.Module, Tensor], Features],
        patch_size: int,
        fixed: int | None,
        rescale: Tensor,
        settings: Any = None,
    ) -> None:
        super().__init__()
        self.module = module.requires_grad_(False).eval()
        self.read, self.patch_size, self.fixed, self.settings = read, patch_size, fixed, settings
        self.register_buffer("rescale", rescale)

    def train(self, mode: bool = True) -> "Teacher":
        """It stays in evaluation mode."""
        return super().train(False)

    def side(self, side: int) -> int:
        """The side in pixels to which crops of `side` are resized: the nearest multiple of its patches, or its own."""
        return self.fixed or max(round(side / self.patch_size), 1) * self.patch_size

    @torch.no_grad()
    def forward(self, crops: Tensor) -> Features:
        """Class and patch tokens of crops (B, 3, S, S) in the run's normalisation."""
        factor, offset = self.rescale.to(crops.dtype)[:, :, None, None].unbind(1)
        crops, side = crops * factor + offset, self.side(crops.shape[-1])
        if side != crops.shape[-1]:
            crops = F.interpolate(crops, (side, side), mode="bicubic", align_corners=False, antialias=True)
        return self.read(self.module, crops)

    def width(self, side: int) -> int:
        """The width of its features, measured on an image of `side` pixels, which it must take."""
        with torch.device("cpu"):
            return self(torch.zeros(1, 3, side, side))[0].shape[1]

    def flops(self, side: int) -> float:
        """Operations of one forward pass of a crop of `side` pixels: ours by formula, others as torch counts them."""
        if isinstance(self.module, BioVFMModel):
            return Architecture.of(self.module.config).forward_flops(self.side(side))
        with torch.device("cpu"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.read(self.module, torch.zeros(1, 3, *[self.side(side)] * 2))
        return float(counter.get_total_flops())

    def mark(self) -> int:
        """A digest by which to recognise the teacher that a run began with: of all numbers and settings."""
        return mark_of(self.state_dict(), self.settings, self.patch_size, self.fixed)


def load_teacher(config: DistillTrainConfig) -> Teacher:
    """The teacher that `distill.teacher` names, on the CPU.

    Raises:
        UserError: there is no such model, or it cannot be loaded.
    """
    config.check_complete()
    source = str(config.distill.teacher)
    with torch.device("cpu"):  # an outline of the objective is made on no device
        if not are_weights(source):
            return _any_encoder(source, config)
        try:
            return our_teacher(_read(source), config)
        except UnknownFamilyError:
            return _any_encoder(source, config)


def _read(source: str) -> ConvertedEncoder:
    try:
        return read_encoder(source)
    except UnknownFamilyError:
        raise
    except UserError as error:
        raise UserError(f"distill.teacher {error}") from error


def assumed_teacher(config: DistillTrainConfig) -> Teacher:
    """A ViT-L without values, which estimates use in place of a teacher that is not named yet."""
    with torch.device("meta"):
        model = BioVFMModel(BioVFMConfig.from_size("vit-large"))
    return Teacher(model, cls_and_map, 16, None, _rescale(config, **IMAGENET))


def our_teacher(read: ConvertedEncoder, config: DistillTrainConfig) -> Teacher:
    """Load a teacher of a convertible family, without stochastic depth and mask token."""
    undisturbed = {"drop_path_rate": 0.0, "use_mask_token": False}
    model = BioVFMModel(BioVFMConfig.from_dict({**read.config.to_dict(), **undisturbed}))
    take_over(model, encoder_tensors(read), str(config.distill.teacher), "distill.teacher")
    rescale, settings = _rescale(config, **read.normalisation), settings_of(model.config)
    return Teacher(model, cls_and_map, model.config.patch_size, None, rescale, settings)


def _any_encoder(source: str, config: DistillTrainConfig) -> Teacher:
    """Load a teacher through the front door, which knows every evaluated family."""
    try:
        encoder = biovfm_hf.load_encoder(source, trust_remote_code=config.distill.trust_remote_code)
    except UserError as error:
        reason = str(error).replace("--trust-remote-code ", "distill.trust_remote_code=")
        raise UserError(f"distill.teacher {reason}") from error

    def read(module: nn.Module, pixels: Tensor) -> Features:
        encoded = encoder.read(module, pixels, 0, encoder.reading)
        return encoded.summary()["class"], encoded.patches().movedim(-1, 1)

    step = next((part.stride[0] for part in encoder.module.modules() if isinstance(part, nn.Conv2d)), 1)
    rescale = _rescale(config, encoder.mean, encoder.std)
    settings = [encoder.revision, settings_of(getattr(encoder.module, "config", None))]
    teacher = Teacher(encoder.module, read, int(step), None, rescale, settings)
    if not all(_takes(teacher, sizes.global_size) for sizes in config.augment.sizes):
        teacher.fixed = encoder.size
    return teacher


def _takes(teacher: Teacher, side: int) -> bool:
    """Whether the encoder takes crops of `side`; libraries raise many kinds of errors if not."""
    try:
        teacher(torch.zeros(1, 3, side, side))
    except Exception:
        return False
    return True


def _rescale(config: DistillTrainConfig, image_mean: Any, image_std: Any) -> Tensor:
    """(3, 2) factors and offsets from the run's normalisation of pixels to the teacher's."""
    mean, std = torch.tensor(config.augment.mean), torch.tensor(config.augment.std)
    their_mean, their_std = torch.tensor(image_mean), torch.tensor(image_std)
    return torch.stack([std / their_std, (mean - their_mean) / their_std], dim=1)


def cls_and_map(encoder: Any, crops: Tensor) -> Features:
    """Class tokens (B, D) and patch tokens as maps (B, D, rows, columns) of a `BioVFMModel`, after the final norm."""
    tokens, patch_size = encoder(crops).last_hidden_state, encoder.config.patch_size
    rows, columns = (side // patch_size for side in crops.shape[-2:])
    return tokens[:, 0], tokens[:, -rows * columns :].mT.unflatten(2, (rows, columns))
