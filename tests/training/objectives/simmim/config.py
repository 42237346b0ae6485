"""SimMIM's recipe (arXiv 2111.09886), small: the third objective that tests add through the registry alone."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from biovfm_hf.cards.objective import Logged
from training.settings.augment import AugmentConfig, preset
from training.settings.config import TrainConfig
from training.settings.typed import Share


def _augmentation() -> AugmentConfig:
    """The paper's crops; cells have no up or down."""
    return replace(preset("mae"), global_scale=(0.67, 1.0), flip_by_modality={"Microscopy": (0.5, 0.5)})


@dataclass(frozen=True)
class SimMIMConfig:
    """The objective's section: `ratio`, the share of patches that are masked."""

    ratio: Share = 0.6


@dataclass(frozen=True)
class SimMIMTrainConfig(TrainConfig):
    """A SimMIM run."""

    title: ClassVar[str] = "SimMIM"
    summary: ClassVar[str] = "masked image modelling: the pixels of masked patches are predicted by one layer"
    source: ClassVar[str] = "SimMIM (arXiv 2111.09886)"
    logged: ClassVar[dict[str, Logged]] = {"pixel_error": Logged("loss", "Mean difference of masked pixels.")}
    main_settings: ClassVar[dict[str, str]] = {"simmim.ratio": "Masked share"}
    model_fields: ClassVar[dict[str, Any]] = {"use_mask_token": True}

    method: str = "simmim"
    augment: AugmentConfig = field(default_factory=_augmentation)
    simmim: SimMIMConfig = SimMIMConfig()


CONFIG = SimMIMTrainConfig
