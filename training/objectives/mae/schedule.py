"""MAE's schedules (`util/lr_sched.py`)."""

from dataclasses import dataclass

from ...schedule import Rates


@dataclass(frozen=True)
class MAESchedule(Rates):
    """MAE's schedule, in steps: linear warm-up from 0, half cosine to `min_lr`, weight decay.

    The defaults are its 800-epoch ImageNet run at batch 4,096 (312 steps an epoch): `lr` is the peak after
    `scaled_learning_rate`. MAE's own code evaluates it at the fractional epoch, which is step / steps per epoch.
    """

    steps: int = 249_600
    lr: float = 2.4e-3
    min_lr: float = 0.0
    warmup_steps: int = 12_480
    weight_decay: float = 0.05
    weight_decay_end: float = 0.05

    @property
    def rise_steps(self) -> int:
        """The first step after the warm-up has the peak learning rate."""
        return self.warmup_steps
