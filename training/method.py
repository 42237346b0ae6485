"""What sets DINO and MAE apart for the loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .schedule import DINOSchedule, MAESchedule
from .settings.config import TrainConfig

# (positions of the batch's images, a generator of this batch's own) -> tensors that join the batch
BatchExtra = Callable[[NDArray[np.int64], np.random.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class Method:
    """An objective and its rules, as functions.

    Attributes:
        name: `dino` or `mae`.
        build: (config, model config) -> objective; `forward(batch, values)` returns loss and named scalars.
            Weights come from `config.model.init_from` where that is given.
        parameter_groups: (objective, config) -> AdamW groups.
        trained: objective -> the module whose children are clipped each on its own.
        schedule: (config, peak learning rate) -> the schedules.
        batch_extra: config -> what a worker adds to each batch, or None.
        exported: objective -> folder name -> model inside it; "model" is the encoder.
    """

    name: str
    build: Callable[[TrainConfig, Any], nn.Module]
    parameter_groups: Callable[[nn.Module, TrainConfig], list[dict]]
    trained: Callable[[nn.Module], nn.Module]
    schedule: Callable[[TrainConfig, float], DINOSchedule | MAESchedule]
    batch_extra: Callable[[TrainConfig], BatchExtra | None]
    exported: Callable[[nn.Module], dict[str, nn.Module]]
