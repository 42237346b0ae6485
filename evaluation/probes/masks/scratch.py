"""Segmentation networks without an encoder, as baselines: U-Net and TransUNet, each also in a small form."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from biovfm_hf.errors import UserError

from ...encoders.segmentation_networks import SCRATCH, SCRATCH_WIDTHS, check_untrained
from ..networks.transunet import TransUNet
from ..networks.transunet_weights import load_weights
from ..networks.unet import SmallTransformer, UNet

Maker = Callable[[int, int, int], nn.Module]  # classes, size and width
MAKERS: dict[str, Maker] = {
    "unet": lambda classes, size, width: UNet(classes, width),
    "unet-small": lambda classes, size, width: UNet(classes, width),
    "transunet": lambda classes, size, width: TransUNet(classes, size),
    "transunet-small": lambda classes, size, width: UNet(classes, width, SmallTransformer(width << 4)),
}


def build(name: str, classes: int, size: int, weights: Path | None = None) -> nn.Module:
    """A network from images (B, 3, size, size) to class scores (B, classes, size, size); size is a multiple of 16.

    - `unet`: four halvings and four doublings with skips (Ronneberger et al. 2015), batch norm, 64 to 1,024 channels.
      It has 31 million weights, like the radiology study's baseline.
    - `unet-small`: the same with 32 to 512 channels.
    - `transunet`: R50-ViT-L_16 (Chen et al. 2021) with 324 million weights, as in the study.
    - `transunet-small`: `unet-small` with four transformer blocks on the cells of the coarsest level.

    Args:
        name: one of `SCRATCH_WIDTHS`.
        classes: number of classes with background.
        size: image size in pixels.
        weights: .npz file with pretrained weights of the encoder, for `transunet` only.

    Raises:
        UserError: the name or size is not supported, or the weights do not fit.
    """
    check_untrained(f"{SCRATCH}{name}")
    if size % 16:
        raise UserError(f"scratch:{name} needs an image size that is a multiple of 16, not {size} (--image-size)")
    network = MAKERS[name](classes, size, SCRATCH_WIDTHS[name])
    if weights is not None:
        if not isinstance(network, TransUNet):
            raise UserError(f"scratch:{name} takes no pretrained weights; scratch:transunet does")
        load_weights(network, weights)
    return network
