"""Segmentation by a decoder on a frozen encoder's tokens, or by a network trained from scratch."""

from dataclasses import dataclass

from biovfm_hf.options import option

from ..statistics.kinds import SEGMENTATION
from ..statistics.surface import CONVENTIONS
from .probe import Answer, Probe, Trial, epochs_setting, rate_setting, register


@dataclass(frozen=True)
class MaskProbe(Probe):
    """Segmentation, scored per case (an image, or a volume of which images are slices) and averaged over cases."""

    kinds = (SEGMENTATION,)
    stratifies = False  # its cases have no class
    version = 2  # 1 had another decoder and another loss
    decoder: str = option("linear", "segmentation: the decoder", choices=("linear", "unet"))
    image_size: int | None = option(
        None, "segmentation, detection: input (default: the model's)", least=1, metavar="PX"
    )
    surface: str | None = option(
        None, "segmentation: whose surface distances (default: deepmind)", choices=tuple(CONVENTIONS)
    )
    tolerance: float | None = option(
        None, "segmentation: of surface Dice, mm, or pixels without spacing (default: 2)", above=0
    )
    empty: str | None = option(
        None,
        "segmentation: surface distances of a structure of which one mask is empty: ignore leaves it out of the means "
        "(default), worst takes 0 surface Dice and the image's diagonal",
        choices=("ignore", "worst"),
    )
    epochs: int | None = epochs_setting()
    rate: float | None = rate_setting()

    @property
    def record_name(self) -> str:
        """With the decoder where it is not the linear one."""
        return f"{self.name}-unet" if self.decoder == "unet" else self.name


@register
@dataclass(frozen=True)
class Segment(MaskProbe):
    """A decoder on frozen patch tokens."""

    name = "segment"
    title = "a decoder on frozen patch tokens"
    normalises_alike = True

    def run(self, trial: Trial) -> Answer:
        """Train the decoder, or the network of a `scratch:` model, and judge."""
        from .masks.frozen import probe_frozen  # needs torch

        return probe_frozen(self, trial)
