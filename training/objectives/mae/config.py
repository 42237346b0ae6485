"""MAE's recipe: the 800-epoch run of PRETRAIN.md and main_pretrain.py (facebookresearch/mae) as defaults."""

from dataclasses import dataclass, field
from typing import ClassVar

from ...settings.augment import AugmentConfig, preset
from ...settings.config import BatchConfig, OptimConfig, TrainConfig
from ...settings.typed import Positive

_BATCH = BatchConfig(size=4096)
_OPTIM = OptimConfig(
    base_lr=1.5e-4,
    lr_rule="linear_256",
    min_lr=0.0,
    warmup_steps=0.05,
    weight_decay=0.05,
    weight_decay_end=0.05,
    clip_grad=None,
    betas=(0.9, 0.95),
)


@dataclass(frozen=True)
class MAETrainConfig(TrainConfig):
    """An MAE run (arXiv 2111.06377). Its own settings, such as `mask_ratio`, are fields of the model."""

    title: ClassVar[str] = "MAE"
    summary: ClassVar[str] = "masked autoencoding: the pixels of hidden patches are predicted from the visible ones"
    source: ClassVar[str] = "MAE (arXiv 2111.06377)"
    family: ClassVar[str] = "mae"
    drops_patches: ClassVar[bool] = True

    method: str = "mae"
    steps: Positive = 249_600
    augment: AugmentConfig = field(default_factory=lambda: preset("mae"))
    batch: BatchConfig = _BATCH
    optim: OptimConfig = _OPTIM


CONFIG = MAETrainConfig
