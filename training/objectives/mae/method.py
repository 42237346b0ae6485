"""MAE's `Method`: how the loop builds, trains, measures and exports it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from biovfm_hf import BioVFMConfig, BioVFMForMaskedAutoencoding
from biovfm_hf.flops import Architecture, step_flops

from ...data.batches import Drawn
from ...settings.architecture import biovfm_config
from ..initial import read_initial, take_over, with_run
from ..method import BatchExtra, Method, crops, largest_side, mean_over_sizes, rates
from .config import MAETrainConfig
from .objective import MAEObjective
from .schedule import MAESchedule


class MAEMethod(Method[MAETrainConfig, MAEObjective]):
    """A masked autoencoder; the encoder is exported, and the whole model beside it."""

    def build(self, config: MAETrainConfig, model_config: BioVFMConfig) -> MAEObjective:
        """Encoder and decoder; if the initial weights have only an encoder, the decoder is fresh."""
        model = BioVFMForMaskedAutoencoding(model_config)
        if initial := read_initial(config, model_config):
            part = model if initial.has_decoder else model.biovfm
            take_over(part, initial.tensors, str(config.model.init_from))
        return with_run(MAEObjective(model), config)

    def schedule(self, config: MAETrainConfig, peak: float) -> MAESchedule:
        """MAE's schedules in the steps of this run."""
        return MAESchedule(**rates(config, peak))

    def exported(self, objective: MAEObjective) -> dict[str, nn.Module]:
        """The whole model, and the encoder."""
        return {"model_with_decoder": objective.model, "model": objective.model.biovfm}

    def batch_extra(self, config: MAETrainConfig) -> BatchExtra:
        """The noise that selects the masked patches."""
        patch_size = biovfm_config(config).patch_size

        def draw_noise(drawn: Drawn, _: np.random.Generator) -> dict[str, Tensor]:
            # by position, so that the same patches are masked however the batch is divided among processes and passes
            seeds = ((config.seed, 1, position) for position in drawn.positions.tolist())
            patches = (drawn.side // patch_size) ** 2
            noise = [np.random.default_rng(seed).random(patches, dtype=np.float32) for seed in seeds]
            return {"noise": torch.from_numpy(np.stack(noise))}

        return draw_noise

    def features(self, tokens: Tensor, first_patch: int) -> Tensor:
        """The mean patch token, because the class token is not trained."""
        return tokens[:, first_patch:].mean(dim=1)

    def tokens_per_image(self, config: MAETrainConfig, model_config: BioVFMConfig) -> int:
        """The visible patches, class token and registers, of the largest crops."""
        return Architecture.of(model_config).tokens(largest_side(config), 1 - model_config.mask_ratio)

    def flops_per_image(self, config: MAETrainConfig, model_config: BioVFMConfig) -> float:
        """Encoder on the visible patches, decoder on all."""
        visible, drop_path = 1 - model_config.mask_ratio, model_config.drop_path_rate
        architecture = Architecture.of(model_config)
        return mean_over_sizes(
            config,
            lambda sizes: (
                step_flops(
                    architecture, crops(config, sizes), visible=visible, decoder=True, drop_path=drop_path
                ).total
            ),
        )

    def other_bytes(
        self, config: MAETrainConfig, model_config: BioVFMConfig, block_bytes: Callable[[int], int], full: bool
    ) -> float:
        """The decoder's blocks."""
        tokens = (largest_side(config) // model_config.patch_size) ** 2 + 1
        return tokens * model_config.decoder_hidden_size * block_bytes(model_config.decoder_num_hidden_layers)


METHOD = MAEMethod()
