"""Values that change from step to step: learning rates, weight decay, teacher momentum and teacher temperature.

Every value is a pure function of the configuration and the step, so that a resumed run needs no state of its own.
Step `t` counts optimiser steps from 0, and its values hold for step `t` itself: they are set before the forward pass.
"""

import math
from dataclasses import dataclass

import numpy as np


def cosine_schedule(
    step: int | np.ndarray, base: float, final: float, total: int, warmup: int = 0, start: float = 0.0
) -> np.ndarray:
    """DINOv2's schedule at `step` (an int or an array of ints): linear from `start`, then a half cosine to `final`.

    As in DINOv2's `CosineScheduler`: the warm-up ends *on* `base` (`linspace` with its end point), the cosine begins
    on `base` too, so the peak lasts two steps, and from `total` on the value is `final`. Float64, shape of `step`.
    """
    step = np.asarray(step, dtype=np.int64)
    ramp = start + (base - start) * np.minimum(step, warmup - 1) / max(warmup - 1, 1)
    phase = (step - warmup) / max(total - warmup, 1)
    cosine = final + 0.5 * (base - final) * (1 + np.cos(np.pi * phase))
    return np.where(step >= total, final, np.where(step < warmup, ramp, cosine))


def scaled_learning_rate(base_lr: float, batch_size: int, rule: str) -> float:
    """The peak learning rate for a global batch of `batch_size` images.

    Rules: `sqrt_1024`, base * sqrt(batch / 1024) (DINOv2); `linear_256`, base * batch / 256 (MAE); `none`, base.

    Raises:
        ValueError: unknown rule.
    """
    if rule == "sqrt_1024":
        return base_lr * math.sqrt(batch_size / 1024)
    if rule == "linear_256":
        return base_lr * batch_size / 256
    if rule == "none":
        return base_lr
    raise ValueError(f"unknown learning-rate rule {rule!r}; known: sqrt_1024, linear_256, none")


@dataclass(frozen=True)
class StepValues:
    """What holds at one step. `momentum` and `teacher_temp` are None where there is no teacher (MAE)."""

    lr: float
    last_layer_lr: float
    weight_decay: float
    momentum: float | None = None
    teacher_temp: float | None = None


@dataclass(frozen=True)
class DINOSchedule:
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

    def at(self, step: int) -> StepValues:
        """The values of one step."""
        return StepValues(**{name: float(value) for name, value in self.arrays(step).items()})


@dataclass(frozen=True)
class MAESchedule:
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

    def at(self, step: int) -> StepValues:
        """The values of one step."""
        return StepValues(**{name: float(value) for name, value in self.arrays(step).items()})
