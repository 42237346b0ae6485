"""SimMIM's `Method`."""

import numpy as np
import torch
from torch import Tensor, nn

from biovfm_hf import BioVFMConfig
from training.data.batches import Drawn
from training.objectives.initial import build_encoder, with_run
from training.objectives.method import BatchExtra, Method
from training.settings.architecture import biovfm_config

from .config import SimMIMTrainConfig
from .objective import SimMIMObjective


class SimMIMMethod(Method[SimMIMTrainConfig, SimMIMObjective]):
    """Everything else is as the base class has it."""

    def build(self, config: SimMIMTrainConfig, model_config: BioVFMConfig) -> SimMIMObjective:
        return with_run(SimMIMObjective(build_encoder(config, model_config)), config)

    def exported(self, objective: SimMIMObjective) -> dict[str, nn.Module]:
        return {"model": objective.encoder}

    def batch_extra(self, config: SimMIMTrainConfig) -> BatchExtra:
        patches = (config.augment.global_size // biovfm_config(config).patch_size) ** 2
        masked = max(round(patches * config.simmim.ratio), 1)

        def draw_masks(drawn: Drawn, generator: np.random.Generator) -> dict[str, Tensor]:
            ranks = generator.random((len(drawn.positions), patches)).argsort(axis=1)
            return {"masks": torch.from_numpy(ranks < masked)}

        return draw_masks

    def features(self, tokens: Tensor, first_patch: int) -> Tensor:
        return tokens[:, first_patch:].mean(dim=1)


METHOD = SimMIMMethod()
