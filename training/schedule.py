"""Schedules of the values that change with the step: learning rate, weight decay, teacher momentum and temperature.

Every value is a pure function of the configuration and the step, so that a resumed run needs no state of its own.
Step `t` counts optimiser steps from 0, and its values hold for step `t` itself: they are set before the forward pass.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

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
    """Scheduled values at one step. `momentum` and `teacher_temp` are None without a teacher, `last_layer_lr` where no
    last layer has a rate of its own.

    `local_weight` is the further weight of pairs with a local crop, None for 1. `gram_weight` is the weight of Gram
    anchoring, and `gram_refresh` 1 if the frozen teacher is renewed after the step; both are None without it.
    """

    lr: float
    last_layer_lr: float | None
    weight_decay: float
    momentum: float | None = None
    teacher_temp: float | None = None
    local_weight: float | None = None
    gram_weight: float | None = None
    gram_refresh: float | None = None


class Schedule(ABC):
    """An objective's schedules."""

    @abstractmethod
    def arrays(self, step: int | np.ndarray) -> dict[str, np.ndarray]:
        """The fields of `StepValues` at `step` (an int or an array of ints): name to float64 array of that shape."""

    def at(self, step: int) -> StepValues:
        """The values of one step."""
        values: dict[str, Any] = {name: float(value) for name, value in self.arrays(step).items()}
        return StepValues(**{"last_layer_lr": None} | values)


@dataclass(frozen=True)
class Rates(Schedule):
    """Learning rate and weight decay, in steps.

    Attributes:
        steps: of the run.
        lr: the peak, after `scaled_learning_rate`.
        min_lr: end of the half cosine after it, at `steps`.
        warmup_steps: of the rise from 0.
        weight_decay: at the start.
        weight_decay_end: at the end, along DINOv2's cosine.
        warmup: shape of the rise, `linear` or `cosine`; DINOv3's high-resolution stage rises along a half cosine.
        decay: `cosine`, or `none` for a constant rate, as in DINOv3's long runs, whose length need not be known.
    """

    steps: int
    lr: float
    min_lr: float
    warmup_steps: int
    weight_decay: float
    weight_decay_end: float
    warmup: str = "linear"
    decay: str = "cosine"

    def arrays(self, step: int | np.ndarray) -> dict[str, np.ndarray]:
        """`lr` and `weight_decay` at `step`, an int or an array of ints: name to float64 array of the same shape."""
        lr = self.rate(np.asarray(step, dtype=np.int64))
        decay = cosine_schedule(step, self.weight_decay, self.weight_decay_end, self.steps)
        return {"lr": lr, "weight_decay": decay}

    def rate(self, step: np.ndarray) -> np.ndarray:
        """The learning rate."""
        final = self.lr if self.decay == "none" else self.min_lr
        later = cosine_schedule(step, self.lr, final, self.steps, self.warmup_steps)
        rise = max(self.rise_steps, 1)
        ramp = self.lr * np.minimum(step, rise) / rise
        if self.warmup == "cosine":
            ramp = self.lr * (1 - np.cos(np.pi * np.minimum(step, rise) / rise)) / 2
        return np.where(step < self.warmup_steps, ramp, later)

    @property
    def rise_steps(self) -> int:
        """Steps from 0 to the peak: the rise ends on it."""
        return self.warmup_steps - 1
