"""Segmentation: decoders on a frozen encoder, networks trained from scratch, fine-tuned encoders, and few subjects."""

from dataclasses import dataclass, field
from typing import Any

from biovfm_hf.options import option

from ..statistics.bootstrap import PROTOCOLS
from ..statistics.kinds import SEGMENTATION
from ..statistics.surface import CONVENTIONS
from .adaptations import Adaptation, AllWeights, Biases, LowRankUpdates
from .few_shot import FewShot, draws_setting, shots_setting
from .finetune import BitFit, FineTune, LoRA
from .probe import STUDY, Answer, Probe, Trial, epochs_setting, rate_setting, register, size_setting

AUGMENTATIONS = ("study", "medical")


def augment_setting(choices: tuple[str, ...], default: str | None) -> Any:
    """The field `augment` of a probe of masks."""
    return option(
        default,
        "segmentation: augmentation of training images and masks in every epoch: study (the radiology study's flips "
        "and rotations), medical (nnU-Net's set without mirroring) (default: none; study under protocol radiology)",
        choices=choices,
    )


@dataclass(frozen=True)
class MaskProbe(Probe):
    """Segmentation, scored per case (an image, or a volume whose slices are images) and averaged over cases."""

    kinds = (SEGMENTATION,)
    stratifies = False  # cases have no class
    saves_masks = True
    version = 2  # version 1 had another decoder and loss
    decoder: str = option("linear", "segmentation: decoder", choices=("linear", "unet"))
    image_size: int | None = size_setting()
    window: int | None = option(
        None,
        "segmentation: cut images into overlapping windows of this side in image pixels, and resize each window to "
        "the input size (default: whole images are resized)",
        least=16,
        metavar="PX",
    )
    augment: str | None = augment_setting(AUGMENTATIONS, None)
    surface: str | None = option(
        None, "segmentation: convention of surface distances (default: deepmind)", choices=tuple(CONVENTIONS)
    )
    tolerance: float | None = option(
        None, "segmentation: tolerance of surface Dice in mm, or in pixels without spacing (default: 2)", above=0
    )
    empty: str | None = option(
        None,
        "segmentation: surface distances of a structure if one of its masks is empty: ignore leaves it out of the "
        "means (default), worst takes surface Dice 0 and the image's diagonal",
        choices=("ignore", "worst"),
    )
    epochs: int | None = epochs_setting()
    rate: float | None = rate_setting()

    @property
    def record_name(self) -> str:
        """The method's name, with the decoder if it is not the linear one."""
        return f"{self.name}-unet" if self.decoder == "unet" else self.name


@register
@dataclass(frozen=True)
class Segment(MaskProbe):
    """A decoder on frozen patch tokens."""

    name = "segment"
    title = "a decoder on frozen patch tokens"
    normalises_alike = True

    def run(self, trial: Trial) -> Answer:
        """Train the decoder, or the network of a `scratch:` model, and score it."""
        from .masks.frozen import probe_frozen  # needs torch

        return probe_frozen(self, trial)


@register
@dataclass(frozen=True)
class StudySegment(MaskProbe):
    """A decoder on frozen patch tokens, trained and scored as the radiology study does."""

    name = Segment.name
    title = Segment.title
    normalises_alike = True
    protocols = (STUDY,)
    augment: str | None = augment_setting((*AUGMENTATIONS, "none"), "study")

    def run(self, trial: Trial) -> Answer:
        """Train a decoder at each of seven rates, then another one at the best rate, and score it."""
        from .masks.study import probe_study  # needs torch

        return probe_study(self, trial)


@dataclass(frozen=True)
class TunedMasks(MaskProbe, Adaptation):
    """Trains those weights of an encoder that the method chooses, together with a decoder."""

    trains_encoder = True
    protocols = PROTOCOLS

    def run(self, trial: Trial) -> Answer:
        """Train, keep the epoch with the highest validation Dice, and score; nothing is cached."""
        from .masks.tuned import probe_tuned  # needs torch

        return probe_tuned(self, trial)


@register
@dataclass(frozen=True)
class FineTuneMasks(AllWeights, TunedMasks):
    """Trains all weights of the encoder and a decoder."""

    name = FineTune.name
    title = FineTune.title


@register
@dataclass(frozen=True)
class BitFitMasks(Biases, TunedMasks):
    """Trains the encoder's biases and a decoder."""

    name = BitFit.name
    title = BitFit.title


@register
@dataclass(frozen=True)
class LoRAMasks(LowRankUpdates, TunedMasks):
    """Trains low-rank updates of the encoder's linear layers and a decoder."""

    name = LoRA.name
    title = LoRA.title


@register
@dataclass(frozen=True)
class FewShotMasks(MaskProbe):
    """Decoders on frozen patch tokens of a few subjects, for many random draws."""

    name = FewShot.name
    title = FewShot.title
    few_shot = True
    shots: int = shots_setting()
    draws: int = draws_setting()

    @property
    def record_name(self) -> str:
        """The method's name with the number of shots, which is essential for reading its results."""
        decoder = "-unet" if self.decoder == "unet" else ""
        return f"{self.name}-{self.shots}{decoder}"

    def run(self, trial: Trial) -> Answer:
        """Train on every draw, and report the mean and spread over draws."""
        from .masks.few_shot import probe_few_shot_masks  # needs torch

        return probe_few_shot_masks(self, trial)


@register
@dataclass(frozen=True)
class StudyFewShotMasks(FewShotMasks):
    """Decoders on the few images that the radiology study uses, trained and scored as it does; one draw."""

    protocols = (STUDY,)
    normalises_alike = True
    augment: str | None = augment_setting((*AUGMENTATIONS, "none"), "study")
    draws: int = field(init=False, default=1, metadata={"help": "the study's images are the same every time"})

    def run(self, trial: Trial) -> Answer:
        """Train on the study's images, and score."""
        from .masks.few_shot import probe_study_few_shot  # needs torch

        return probe_study_few_shot(self, trial)
