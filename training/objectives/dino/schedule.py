"""DINOv2's schedules (`dinov2/train/train.py`)."""

from dataclasses import dataclass

import numpy as np

from ...schedule import Schedule, cosine_schedule


@dataclass(frozen=True)
class DINOSchedule(Schedule):
    """DINOv2's schedules, in steps; the defaults are its `vitl16_short` run of 100 epochs of 1,250 steps.

    `lr` is the peak after `scaled_learning_rate`. Learning rate and weight decay follow a cosine over `steps`,
    the momentum too; the teacher temperature rises linearly over `teacher_temp_warmup_steps` and then stays.
    In the first `freeze_last_layer_steps` steps the heads' last layer has learning rate 0 (its Adam moments still
    accumulate, as in DINOv2).
    """

    steps: int = 125_000
    lr: float = 0.004
    min_lr: float = 1e-6
    warmup_steps: int = 12_500
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    momentum: float = 0.992
    momentum_end: float = 1.0
    teacher_temp: float = 0.07
    warmup_teacher_temp: float = 0.04
    teacher_temp_warmup_steps: int = 37_500
    freeze_last_layer_steps: int = 1_250

    def arrays(self, step: int | np.ndarray) -> dict[str, np.ndarray]:
        """The five values at `step`, an int or an array of ints: name to float64 array of the same shape."""
        lr = cosine_schedule(step, self.lr, self.min_lr, self.steps, self.warmup_steps)
        frozen = np.asarray(step) < self.freeze_last_layer_steps
        rise = self.teacher_temp_warmup_steps
        return {
            "lr": lr,
            "last_layer_lr": np.where(frozen, 0.0, lr),
            "weight_decay": cosine_schedule(step, self.weight_decay, self.weight_decay_end, self.steps),
            "momentum": cosine_schedule(step, self.momentum, self.momentum_end, self.steps),
            "teacher_temp": cosine_schedule(
                step, self.teacher_temp, self.teacher_temp, rise, rise, self.warmup_teacher_temp
            ),
        }
