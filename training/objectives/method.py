"""The interface between the loop and an objective; each objective implements it in its `method.py`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from biovfm_hf import BioVFMConfig
from biovfm_hf.flops import Architecture, Crops, step_flops

from .. import optimizer
from ..data.batches import Drawn
from ..schedule import Rates, Schedule, StepValues
from ..settings.augment import CropSizes
from ..settings.config import TrainConfig

C = TypeVar("C", bound=TrainConfig)
M = TypeVar("M", bound=nn.Module)
# (the images behind a batch, a generator for this batch) -> tensors that join the batch
BatchExtra = Callable[[Drawn, np.random.Generator], dict[str, Tensor]]


class Method(ABC, Generic[C, M]):
    """An objective and its rules. A `Method` has no state; the module that it builds has.

    The defaults suit an objective that encodes every crop once and trains all of its module.
    """

    def resolved(self, config: C, out: Path | None = None) -> C:
        """The configuration with the architectures of further models that start from weights of their own.

        A run resumed in `out` reads them from its `config.yaml`; the initial weights need not exist any more.
        """
        return config

    @abstractmethod
    def build(self, config: C, model_config: BioVFMConfig) -> M:
        """The module whose `forward(batch, values)` returns the loss and named scalars.

        With G global crops of each of B images, `batch["global_crops"]` is (G * B, 3, S, S): every image's first crop,
        then every image's second, and so on; `batch["local_crops"]` is stacked in the same way.

        Weights come from `config.model.init_from` if that is given (`initial.py`).
        """

    @abstractmethod
    def exported(self, objective: M) -> dict[str, nn.Module]:
        """Folder name -> model inside the objective. "model" is the encoder; it comes last, so that an export that has
        it is complete.
        """

    def schedule(self, config: C, peak: float) -> Schedule:
        """The schedules, for a peak learning rate."""
        return Rates(**rates(config, peak))

    def trained(self, objective: M) -> nn.Module:
        """The module whose children are clipped separately."""
        return objective

    def encoder(self, objective: M) -> nn.Module:
        """The encoder that is trained."""
        return self.exported(objective)["model"]

    def parameter_groups(self, objective: M, config: C) -> list[dict]:
        """AdamW groups, with multipliers (`optimizer.grouped`)."""
        return optimizer.parameter_groups(objective)

    def batch_extra(self, config: C) -> BatchExtra | None:
        """The function that adds tensors to each batch in a loader's worker."""
        return None

    def after_step(self, objective: M, values: StepValues) -> None:
        """Work after the optimiser's step, such as moving a teacher."""

    def frozen_mark(self, objective: M) -> int | None:
        """A number identifying what a checkpoint does not store of a frozen network; None if there is none."""
        return None

    def features(self, tokens: Tensor, first_patch: int) -> Tensor:
        """(B, 1 + R + N, D) -> (B, D), the features that the watch measures; patch tokens begin at `first_patch`."""
        return tokens[:, 0]

    def collapse(self, records: Sequence[Mapping[str, Any]]) -> str | None:
        """What in the last logged records shows a collapse, and what to try; None if nothing does."""
        return None

    def tokens_per_image(self, config: C, model_config: BioVFMConfig) -> int:
        """Tokens of one image that pass through the trained encoder, with the largest crops that a step has."""
        architecture = Architecture.of(model_config)
        return max(
            sum(count * architecture.tokens(side) for side, count in crops(config, sizes).sides)
            for sizes in config.augment.sizes
        )

    def flops_per_image(self, config: C, model_config: BioVFMConfig) -> float:
        """Floating-point operations of one image's forward and backward passes, without `frozen_flops`."""
        architecture, drop_path = Architecture.of(model_config), model_config.drop_path_rate
        return mean_over_sizes(
            config, lambda sizes: step_flops(architecture, crops(config, sizes), drop_path=drop_path).total
        )

    def frozen_flops(self, config: C, objective: M) -> float:
        """Operations of one image in the objective's frozen networks, which the settings only name."""
        return 0.0

    def other_bytes(
        self, config: C, model_config: BioVFMConfig, block_bytes: Callable[[int], int], full: bool
    ) -> float:
        """Bytes that a pass keeps for one image besides the trained encoder's blocks.

        Args:
            config: the run's.
            model_config: the model's.
            block_bytes: number of blocks -> bytes that autograd keeps per token and feature.
            full: whether it computes in float32.
        """
        return 0.0


def crops(config: TrainConfig, sizes: CropSizes) -> Crops:
    """The crops of a run's steps of these sizes, as the FLOP count takes them."""
    augment = config.augment
    return Crops(augment.global_count, sizes.global_size, augment.local_count, sizes.local_size)


def largest_side(config: TrainConfig) -> int:
    """The side of the largest global crops that a step has, in pixels."""
    return max(sizes.global_size for sizes in config.augment.sizes)


def mean_over_sizes(config: TrainConfig, count: Callable[[CropSizes], float]) -> float:
    """The mean of `count` over the crop sizes of steps."""
    weights = [sizes.weight for sizes in config.augment.sizes]
    counts = [count(sizes) for sizes in config.augment.sizes]
    return sum(weight * value for weight, value in zip(weights, counts, strict=True)) / sum(weights)


def rates(config: TrainConfig, peak: float) -> dict[str, Any]:
    """The fields of `Rates`, for a peak learning rate, in the steps of a run."""
    optim = config.optim
    return {
        "steps": config.steps,
        "lr": peak,
        "min_lr": optim.min_lr,
        "warmup_steps": config.step_count(optim.warmup_steps),
        "weight_decay": optim.weight_decay,
        "weight_decay_end": optim.weight_decay_end,
        "warmup": optim.warmup,
        "decay": optim.decay,
    }
