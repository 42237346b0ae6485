"""Pretrain with the DINOv2 objective: `accelerate launch training/pretrain_dino.py --config C --data D --out O`."""

import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the relative imports below resolve (PEP 366)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import training  # noqa: F401

    __package__ = "training"

from .command import run


def load_method() -> Any:
    """DINOv2 as the loop knows it."""
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from .method import BatchExtra, Method
    from .objectives.dino.masking import block_masks
    from .objectives.dino.objective import DINOObjective
    from .objectives.initial import build_encoder, with_run
    from .optimizer import dino_parameter_groups
    from .schedule import DINOSchedule
    from .settings.config import TrainConfig, biovfm_config

    def build(config: TrainConfig, model_config: Any) -> nn.Module:
        return with_run(DINOObjective(build_encoder(config, model_config), config.dino), config)

    def parameter_groups(objective: nn.Module, config: TrainConfig) -> list[dict]:
        optim = config.optim
        return dino_parameter_groups(objective.student, optim.layerwise_decay, optim.patch_embed_lr_mult)  # type: ignore[arg-type]

    def schedule(config: TrainConfig, peak: float) -> DINOSchedule:
        optim, teacher = config.optim, config.teacher
        return DINOSchedule(
            steps=config.steps,
            lr=peak,
            min_lr=optim.min_lr,
            warmup_steps=config.step_count(optim.warmup_steps),
            weight_decay=optim.weight_decay,
            weight_decay_end=optim.weight_decay_end,
            momentum=teacher.momentum,
            momentum_end=teacher.momentum_end,
            teacher_temp=teacher.temperature,
            warmup_teacher_temp=teacher.warmup_temperature,
            teacher_temp_warmup_steps=config.step_count(teacher.temperature_warmup_steps),
            freeze_last_layer_steps=config.step_count(optim.freeze_last_layer_steps),
        )

    def batch_extra(config: TrainConfig) -> BatchExtra:
        side = config.augment.global_size // biovfm_config(config).patch_size
        mask = config.mask

        def draw_masks(positions: NDArray[np.int64], generator: np.random.Generator) -> dict[str, Tensor]:
            return block_masks(2 * len(positions), (side, side), generator, mask.probability, mask.ratio)

        return draw_masks

    return Method(
        name="dino",
        build=build,
        parameter_groups=parameter_groups,
        trained=lambda objective: objective.student,  # type: ignore[arg-type, return-value]
        schedule=schedule,
        batch_extra=batch_extra,
        exported=lambda objective: {"model": objective.teacher.backbone},  # type: ignore[union-attr, dict-item]
    )


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return run("dino", load_method, argv)


if __name__ == "__main__":
    sys.exit(main())
