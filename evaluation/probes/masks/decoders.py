"""Decoders from an encoder's grids of patch tokens to class scores: a linear one, and a U-Net."""

import torch
from torch import Tensor, nn

from biovfm_hf.configuration_biovfm import BioVFMConfig
from biovfm_hf.modeling_biovfm import BioVFMUNetDecoder

UNET_BLOCKS = 5
DECODER_BLOCKS = {"linear": 0, "unet": UNET_BLOCKS}
"""Number of blocks that each decoder reads; 0 reads the last block's tokens after the final norm."""


class LinearDecoder(nn.Module):
    """One linear layer on each token of the last map, C (D + 1) weights: maps (B, D, h, w) -> (B, classes, h, w).

    Args:
        width: D.
        classes: number of classes with background.
        standardise: first scale each channel to mean 0 and standard deviation 1 by batch statistics, without weights.
            Channels of equal scale train at one learning rate, whatever the encoder. The radiology study does not do
            so.
    """

    def __init__(self, width: int, classes: int, standardise: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False) if standardise else nn.Identity()
        self.linear = nn.Conv2d(width, classes, 1)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.constant_(self.linear.bias, 0.0)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Scores at the tokens' own resolution."""
        return self.linear(self.norm(maps[-1]))


class UNetDecoder(nn.Module):
    """The model class's U-Net decoder for tokens of any width: maps (B, D, h, w) -> (B, classes, 16h, 16w).

    If an encoder has fewer than five blocks, its oldest map replaces the missing ones.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.decoder = unet_decoder(width, classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Scores at sixteen times the tokens' resolution."""
        return self.decoder([maps[0]] * (UNET_BLOCKS - len(maps)) + maps)


def unet_decoder(width: int, classes: int) -> BioVFMUNetDecoder:
    """`BioVFMUNetDecoder` for five maps of `width` channels."""
    config = BioVFMConfig.from_size("vit-tiny", hidden_size=width, num_attention_heads=1, num_labels=classes)
    return BioVFMUNetDecoder(config)


def make_decoder(kind: str, width: int, classes: int, standardise: bool = True) -> nn.Module:
    """A new decoder, by its name in `DECODER_BLOCKS`."""
    return UNetDecoder(width, classes) if kind == "unet" else LinearDecoder(width, classes, standardise)


def as_maps(grids: list[Tensor], device: str | torch.device) -> list[Tensor]:
    """Grids of tokens (B, h, w, D) as maps (B, D, h, w) in float32 on a device."""
    return [grid.permute(0, 3, 1, 2).to(device).float() for grid in grids]
