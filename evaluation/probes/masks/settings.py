"""The settings that all probes of masks have; it needs no torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from biovfm_hf.options import option

from ...statistics.kinds import SEGMENTATION
from ...statistics.surface import CONVENTIONS
from ..probe import Probe, epochs_setting, rate_setting, size_setting

# what each does; its function is `augment_NAME` of augment.py
AUGMENTATIONS = {"study": "the radiology study's flips and rotations", "medical": "nnU-Net's set without mirroring"}


def augment_setting(choices: Iterable[str], default: str | None) -> Any:
    """The field `augment` of a probe of masks."""
    meanings = ", ".join(f"{name} ({meaning})" for name, meaning in AUGMENTATIONS.items())
    return option(
        default,
        f"segmentation: augmentation of training images and masks in every epoch: {meanings} (default: none; study "
        "under protocol radiology)",
        choices=tuple(choices),
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
