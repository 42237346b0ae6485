"""MAE's schedules (`util/lr_sched.py`)."""

from dataclasses import dataclass

import numpy as np

from ...schedule import Schedule


@dataclass(frozen=True)
class MAESchedule(Schedule):
    """MAE's schedule, in steps: linear warm-up from 0, half cosine to `min_lr`, constant weight decay.

    The defaults are its 800-epoch ImageNet run at batch 4,096 (312 steps an epoch): `lr` is the peak after
    `scaled_learning_rate`. MAE's own code evaluates it at the fractional epoch, which is step / steps per epoch.
    """

    steps: int = 249_600
    lr: float = 2.4e-3
    min_lr: float = 0.0
    warmup_steps: int = 12_480
    weight_decay: float = 0.05

    def arrays(self, step: int | np.ndarray) -> dict[str, np.ndarray]:
        """`lr` and `weight_decay` at `step`, an int or an array of ints: name to float64 array of the same shape."""
        step = np.asarray(step, dtype=np.int64)
        ramp = self.lr * step / max(self.warmup_steps, 1)
        phase = np.clip((step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1), 0.0, 1.0)
        cosine = self.min_lr + 0.5 * (self.lr - self.min_lr) * (1 + np.cos(np.pi * phase))
        lr = np.where(step < self.warmup_steps, ramp, cosine)
        return {"lr": lr, "last_layer_lr": lr, "weight_decay": np.full(step.shape, self.weight_decay)}
