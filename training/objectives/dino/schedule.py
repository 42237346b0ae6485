"""DINOv2's schedules (`dinov2/train/train.py`)."""

from dataclasses import dataclass

import numpy as np

from ...schedule import Schedule, cosine_schedule


@dataclass(frozen=True)
class DINOSchedule(Schedule):
    """DINOv2's schedules, in steps; the defaults are its `vitl16_short` run of 100 epochs of 1,250 steps.

    `lr` is the peak after `scaled_learning_rate`. Learning rate and weight decay follow a cosine over `steps`,
    the momentum too; the teacher temperature rises linearly over `teacher_temp_warmup_steps` and then stays.
    Gram anchoring, where it has a weight, rises to it along a half cosine of `gram_ramp_steps` after `gram_start`
    steps, and its teacher is renewed every `gram_refresh_every` steps from then on, `gram_refreshes` times at most;
    with `gram_own_teacher` also just before it starts.
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
    gram_weight: float = 0.0
    gram_start: int = 0
    gram_ramp_steps: int = 0
    gram_refresh_every: int = 0
    gram_refreshes: int = 3
    gram_own_teacher: bool = False

    def arrays(self, step: int | np.ndarray) -> dict[str, np.ndarray]:
        """The values at `step`, an int or an array of ints: name to float64 array of that shape.

        Those of Gram anchoring are there where it has a weight.
        """
        lr = cosine_schedule(step, self.lr, self.min_lr, self.steps, self.warmup_steps)
        frozen = np.asarray(step) < self.freeze_last_layer_steps
        rise = self.teacher_temp_warmup_steps
        anchoring = {} if not self.gram_weight else self._gram(np.asarray(step))
        return {
            "lr": lr,
            "last_layer_lr": np.where(frozen, 0.0, lr),
            "weight_decay": cosine_schedule(step, self.weight_decay, self.weight_decay_end, self.steps),
            "momentum": cosine_schedule(step, self.momentum, self.momentum_end, self.steps),
            "teacher_temp": cosine_schedule(
                step, self.teacher_temp, self.teacher_temp, rise, rise, self.warmup_teacher_temp
            ),
            **anchoring,
        }

    def _gram(self, step: np.ndarray) -> dict[str, np.ndarray]:
        """Weight, and whether the frozen teacher is renewed after the step (`dinov3/train/ssl_meta_arch.py`)."""
        since = step - self.gram_start
        phase = (
            np.clip(since / max(self.gram_ramp_steps - 1, 1), 0, 1) if self.gram_ramp_steps else np.ones(step.shape)
        )
        done, every = since + 1, max(self.gram_refresh_every, 1)
        refresh = (done > 0) & (done % every == 0) & (done // every <= self.gram_refreshes)
        refresh &= self.gram_refresh_every > 0
        refresh |= (done == 0) & self.gram_own_teacher
        weight = np.where(since < 0, 0.0, self.gram_weight * (1 - np.cos(np.pi * phase)) / 2)
        return {"gram_weight": weight, "gram_refresh": refresh.astype(np.float64)}
