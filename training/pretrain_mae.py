"""Pretrain a masked autoencoder: `accelerate launch training/pretrain_mae.py --config C --data D --out O`."""

import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the relative imports below resolve (PEP 366)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import training  # noqa: F401

    __package__ = "training"

from .command import run


def load_method() -> Any:
    """MAE as the loop knows it."""
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from .method import BatchExtra, Method
    from .objectives.initial import build_autoencoder, with_run
    from .objectives.mae.objective import MAEObjective
    from .optimizer import mae_parameter_groups
    from .schedule import MAESchedule
    from .settings.config import TrainConfig, biovfm_config

    def build(config: TrainConfig, model_config: Any) -> nn.Module:
        return with_run(MAEObjective(build_autoencoder(config, model_config)), config)

    def schedule(config: TrainConfig, peak: float) -> MAESchedule:
        optim = config.optim
        return MAESchedule(
            steps=config.steps,
            lr=peak,
            min_lr=optim.min_lr,
            warmup_steps=config.step_count(optim.warmup_steps),
            weight_decay=optim.weight_decay,
        )

    def batch_extra(config: TrainConfig) -> BatchExtra:
        patches = (config.augment.global_size // biovfm_config(config).patch_size) ** 2

        def draw_noise(positions: NDArray[np.int64], _: np.random.Generator) -> dict[str, Tensor]:
            # by position, so that the same patches hide however the batch is spread over processes and passes
            seeds = ((config.seed, 1, position) for position in positions.tolist())
            noise = [np.random.default_rng(seed).random(patches, dtype=np.float32) for seed in seeds]
            return {"noise": torch.from_numpy(np.stack(noise))}

        return draw_noise

    return Method(
        name="mae",
        build=build,
        parameter_groups=lambda objective, config: mae_parameter_groups(objective),
        trained=lambda objective: objective,
        schedule=schedule,
        batch_extra=batch_extra,
        # the encoder last: where it is, the export is whole
        exported=lambda objective: {"model_with_decoder": objective.model, "model": objective.model.biovfm},  # type: ignore[union-attr, dict-item]
    )


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return run("mae", load_method, argv)


if __name__ == "__main__":
    sys.exit(main())
