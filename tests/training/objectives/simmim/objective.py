"""Masked patches, one linear layer to pixels, L1 on what was masked."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from biovfm_hf import BioVFMModel
from biovfm_hf.modeling_biovfm import cut_patches
from training.schedule import StepValues


class SimMIMObjective(nn.Module):
    """An encoder with a mask token, and a linear layer from its tokens to the pixels of a patch."""

    def __init__(self, encoder: BioVFMModel) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.decoder = nn.Linear(config.hidden_size, config.patch_size**2 * config.num_channels)

    def forward(self, batch: Mapping[str, Any], values: StepValues) -> tuple[Tensor, dict[str, Tensor]]:
        """`global_crops` (B, 3, H, W) and `masks` (B, N) bool to the mean absolute error over masked patches."""
        crops, masks = batch["global_crops"], batch["masks"]
        tokens = self.encoder(crops, bool_masked_pos=masks).last_hidden_state
        patches = cut_patches(crops, self.encoder.config.patch_size)
        error = (self.decoder(tokens[:, -masks.shape[1] :]) - patches).abs().mean(dim=2)
        loss = error[masks].mean()
        return loss, {"simmim_loss": loss.detach(), "pixel_error": loss.detach()}
