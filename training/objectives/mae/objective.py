"""MAE's training objective (arXiv 2111.06377), around a model with encoder and decoder."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from biovfm_hf.modeling_biovfm import BioVFMForMaskedAutoencoding

from ...schedule import StepValues


class MAEObjective(nn.Module):
    """`BioVFMForMaskedAutoencoding` as a training objective; there is no teacher.

    Args:
        model: the masked autoencoder; its config sets the mask ratio and the pixel normalisation.
    """

    def __init__(self, model: BioVFMForMaskedAutoencoding) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Any], values: StepValues) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch.

        Args:
            batch: `global_crops` (B, 3, H, W); `noise` (B, N) in [0, 1), whose lowest patches stay visible; it is
                drawn from torch's generator if it is not given.
            values: of this step; unused here.

        Returns:
            The mean squared error over masked patches, and the same value, detached, as `mae_loss`.
        """
        loss = self.model.reconstruction_loss(batch["global_crops"], batch.get("noise"))
        return loss, {"mae_loss": loss.detach()}
