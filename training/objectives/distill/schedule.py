"""Distillation's schedules: those of the rate and of weight decay."""

from dataclasses import dataclass

import numpy as np

from ...schedule import Schedule, cosine_schedule


@dataclass(frozen=True)
class DistillSchedule(Schedule):
    """Linear warm-up from 0 to `lr`, half cosine to `min_lr`; weight decay by the same cosine from start to end."""

    steps: int
    lr: float
    min_lr: float
    warmup_steps: int
    weight_decay: float
    weight_decay_end: float

    def arrays(self, step: int | np.ndarray) -> dict[str, np.ndarray]:
        """`lr` and `weight_decay` at `step`, an int or an array of ints: name to float64 array of the same shape."""
        lr = cosine_schedule(step, self.lr, self.min_lr, self.steps, self.warmup_steps)
        decay = cosine_schedule(step, self.weight_decay, self.weight_decay_end, self.steps)
        return {"lr": lr, "last_layer_lr": lr, "weight_decay": decay}
