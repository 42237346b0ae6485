"""DINOv2's schedules (`dinov2/train/train.py`), and those that DINOv3 adds (`dinov3/train/cosine_lr_scheduler.py`)."""

from dataclasses import dataclass

import numpy as np

from ...schedule import Rates, cosine_schedule


@dataclass(frozen=True)
class DINOSchedule(Rates):
    """DINOv2's schedules, in steps; the defaults are its `vitl16_short` run of 100 epochs of 1,250 steps.

    The momentum follows a cosine over `steps`, as learning rate and weight decay do; the teacher temperature rises
    linearly over `teacher_temp_warmup_steps` and then stays.
    The weight of Gram anchoring, if it has one, rises along a half cosine of `gram_ramp_steps` after `gram_start`
    steps. Its teacher is replaced every `gram_refresh_every` steps from then on, at most `gram_refreshes` times; with
    `gram_own_teacher` also just before anchoring starts. On the same ramp the weight of pairs with a local crop goes
    from 1 to `local_weight`; without Gram anchoring it is `local_weight` throughout.
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
    local_weight: float = 1.0
    gram_weight: float = 0.0
    gram_start: int = 0
    gram_ramp_steps: int = 0
    gram_refresh_every: int = 0
    gram_refreshes: int = 3
    gram_own_teacher: bool = False

    def arrays(self, step: int | np.ndarray) -> dict[str, np.ndarray]:
        """The values at `step`, an int or an array of ints: name to float64 array of that shape.

        Values of Gram anchoring are included if it has a weight, `local_weight` if it is not 1.
        """
        values = super().arrays(step)
        step = np.asarray(step)
        frozen, rise = step < self.freeze_last_layer_steps, self.teacher_temp_warmup_steps
        temperature = cosine_schedule(step, self.teacher_temp, self.teacher_temp, rise, rise, self.warmup_teacher_temp)
        return {
            **values,
            "last_layer_lr": np.where(frozen, 0.0, values["lr"]),
            "momentum": cosine_schedule(step, self.momentum, self.momentum_end, self.steps),
            "teacher_temp": temperature,
            **self._anchoring(step),
        }

    def _anchoring(self, step: np.ndarray) -> dict[str, np.ndarray]:
        """Weights, and whether the frozen teacher is replaced after the step (`dinov3/train/ssl_meta_arch.py`)."""
        share, values = self._ramp(step), {}
        if self.local_weight != 1:
            values["local_weight"] = 1 + (self.local_weight - 1) * share
        if self.gram_weight:
            values["gram_weight"] = self.gram_weight * share
            values["gram_refresh"] = self._refresh(step).astype(np.float64)
        return values

    def _ramp(self, step: np.ndarray) -> np.ndarray:
        """The ramp, from 0 before Gram anchoring starts to 1 when it has its full weight."""
        if not self.gram_weight:
            return np.ones(step.shape)
        since, last = step - self.gram_start, max(self.gram_ramp_steps - 1, 1)
        phase = np.clip(since / last, 0, 1) if self.gram_ramp_steps else np.ones(step.shape)
        return np.where(since < 0, 0.0, (1 - np.cos(np.pi * phase)) / 2)

    def _refresh(self, step: np.ndarray) -> np.ndarray:
        done, every = step - self.gram_start + 1, max(self.gram_refresh_every, 1)
        due = (done > 0) & (done % every == 0) & (done // every <= self.gram_refreshes)
        due &= self.gram_refresh_every > 0
        return due | ((done == 0) & self.gram_own_teacher)
