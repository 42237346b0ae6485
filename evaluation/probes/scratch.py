"""Segmentation networks trained from scratch, as baselines: U-Net and TransUNet, each in a small form too."""

from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD

from ..encoders.load import SCRATCH_WIDTHS, to_square
from ..tasks import Task
from .decoders import DecoderPlan, train_decoder
from .masks import Segmentation, count_cases

if TYPE_CHECKING:
    from torch import Tensor, nn


def _unet(classes: int, size: int, width: int) -> "nn.Module":
    from .networks.unet import UNet

    return UNet(classes, width)


def _transunet(classes: int, size: int, width: int) -> "nn.Module":
    from .networks.transunet import TransUNet

    return TransUNet(classes, size)


def _small_transunet(classes: int, size: int, width: int) -> "nn.Module":
    from .networks.unet import SmallTransformer, UNet

    return UNet(classes, width, SmallTransformer(width << 4))


MAKERS = {"unet": _unet, "unet-small": _unet, "transunet": _transunet, "transunet-small": _small_transunet}


def build(name: str, classes: int, size: int) -> "nn.Module":
    """A network from images (B, 3, size, size) to class scores (B, classes, size, size); size is a multiple of 16.

    `unet`: four halvings and four doublings with skips (Ronneberger et al. 2015), batch norm, 64 to 1,024 channels:
    the 31 million weights of the radiology study's baseline. `unet-small`: the same with 32 to 512 channels.
    `transunet`: R50-ViT-L_16 (Chen et al. 2021), the study's 324 million. `transunet-small`: `unet-small` with four
    transformer blocks on the cells of the coarsest level.

    Raises:
        UserError: another name.
    """
    if name not in SCRATCH_WIDTHS:
        raise UserError(f"scratch:{name} is no network; take scratch:{' or scratch:'.join(SCRATCH_WIDTHS)}")
    return MAKERS[name](classes, size, SCRATCH_WIDTHS[name])


def probe_scratch(name: str, task: Task, size: int, plan: DecoderPlan) -> Segmentation:
    """Train a network of `build` on the task's images, as the decoders are trained, and score it on test.

    Args:
        name: of `SCRATCH_WIDTHS`.
        task: a segmentation task.
        size: of the images given to it, pixels; a multiple of 16.
        plan: how it is trained.

    Raises:
        UserError: `size` is no multiple of 16.
    """
    import torch

    if size % 16:
        raise UserError(f"scratch:{name} needs an image size that is a multiple of 16, not {size} (--image-size)")
    torch.manual_seed(plan.seed)
    network: Any = build(name, task.num_outputs, size).to(plan.device)

    def run(split: str, rows: np.ndarray) -> "Tensor":
        images = [task.splits[split].images[int(row)] for row in rows]
        return network(to_square(images, size, IMAGENET_MEAN, IMAGENET_STD).to(plan.device))

    chosen = train_decoder(network, run, task, plan)

    def predict(rows: np.ndarray) -> "Tensor":
        with torch.inference_mode():
            return run("test", rows).cpu()

    trained = chosen["trained_weights"] = sum(parameter.numel() for parameter in network.parameters())
    counts = count_cases(task.num_outputs, predict, task.splits["test"])
    return Segmentation(counts, chosen, predict, trained, trained)
