"""Segmentation networks trained from scratch, as baselines: U-Nets, and TransUNet with a small transformer."""

from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.imagenet import IMAGENET_MEAN, IMAGENET_STD

from ..encoders.load import to_square
from ..tasks import Task
from .decoders import DecoderPlan, train_decoder
from .masks import Segmentation, count_cases

if TYPE_CHECKING:
    from torch import Tensor, nn

NETWORKS = {"unet": 64, "unet-small": 32, "transunet": 32}  # channels at the images' own size
HEADS = 8
BLOCKS = 4


def build(name: str, classes: int) -> "nn.Module":
    """A network from images (B, 3, H, W) to class scores (B, classes, H, W); H and W are multiples of 16.

    `unet`: four halvings and four doublings with skips (Ronneberger et al. 2015), batch norm, 64 to 1,024 channels:
    the 31 million weights of the radiology study's baseline. `unet-small`: the same with 32 to 512 channels.
    `transunet`: that with four transformer blocks on the cells of the coarsest level (Chen et al. 2021), whose
    places are told by a depthwise convolution, so that any size is taken.

    Raises:
        UserError: another name.
    """
    import torch
    from torch import nn

    if name not in NETWORKS:
        raise UserError(f"scratch:{name} is no network; take scratch:{' or scratch:'.join(NETWORKS)}")

    def double(inputs: int, outputs: int) -> nn.Sequential:
        parts: list[nn.Module] = []
        for first in (inputs, outputs):
            parts += [nn.Conv2d(first, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*parts)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [NETWORKS[name] << level for level in range(5)]
            self.down = nn.ModuleList(double(a, b) for a, b in zip([3, *widths], widths, strict=False))
            layer = nn.TransformerEncoderLayer(
                widths[-1], HEADS, 2 * widths[-1], dropout=0.1, batch_first=True, norm_first=True
            )
            self.places = nn.Conv2d(widths[-1], widths[-1], 3, padding=1, groups=widths[-1])
            self.blocks = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)
            if name != "transunet":
                del self.places, self.blocks
            self.up = nn.ModuleList(nn.ConvTranspose2d(2 * a, a, 2, stride=2) for a in widths[-2::-1])
            self.join = nn.ModuleList(double(2 * a, a) for a in widths[-2::-1])
            self.last = nn.Conv2d(widths[0], classes, 1)

        def forward(self, held: "Tensor") -> "Tensor":
            skips = []
            for level, step in enumerate(self.down):
                held = step(nn.functional.max_pool2d(held, 2) if level else held)
                skips.append(held)
            if name == "transunet":
                cells = (held + self.places(held)).flatten(2).transpose(1, 2)
                held = self.blocks(cells).transpose(1, 2).unflatten(2, held.shape[-2:])
            for up, join, skip in zip(self.up, self.join, reversed(skips[:-1]), strict=True):
                held = join(torch.cat([skip, up(held)], 1))
            return self.last(held)

    return Network()


def probe_scratch(name: str, task: Task, size: int, plan: DecoderPlan) -> Segmentation:
    """Train a network of `build` on the task's images, as the decoders are trained, and score it on test.

    Args:
        name: of `NETWORKS`.
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
    network: Any = build(name, task.num_outputs).to(plan.device)

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
