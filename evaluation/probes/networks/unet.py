"""The U-Net (Ronneberger et al. 2015) with batch norm, optionally with a small transformer at its coarsest level."""

import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS = 8
BLOCKS = 4
LEVELS = 5


def _double(inputs: int, outputs: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for first in (inputs, outputs):
        parts += [nn.Conv2d(first, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*parts)


class UNet(nn.Module):
    """Images (B, 3, H, W) to class scores (B, classes, H, W): four halvings and four doublings with skips.

    Args:
        classes: number of classes with background.
        width: channels at the images' own size; each halving doubles them.
        middle: module applied to the coarsest map (B, 16 width, H / 16, W / 16); it keeps the shape.
    """

    def __init__(self, classes: int, width: int, middle: nn.Module | None = None) -> None:
        super().__init__()
        widths = [width << level for level in range(LEVELS)]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.middle = middle or nn.Identity()
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * a, a, 2, stride=2) for a in widths[-2::-1])
        self.join = nn.ModuleList(_double(2 * a, a) for a in widths[-2::-1])
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, classes, H, W); H and W are multiples of 16."""
        maps, skips = images, []
        for level, step in enumerate(self.down):
            maps = step(functional.max_pool2d(maps, 2) if level else maps)
            skips.append(maps)
        maps = self.middle(maps)
        for up, join, skip in zip(self.up, self.join, reversed(skips[:-1]), strict=True):
            maps = join(torch.cat([skip, up(maps)], 1))
        return self.last(maps)


class SmallTransformer(nn.Module):
    """Transformer blocks on a map's cells; a depthwise convolution encodes their places, so that any size works."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.places = nn.Conv2d(width, width, 3, padding=1, groups=width)
        layer = nn.TransformerEncoderLayer(width, HEADS, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, width, h, w) -> (B, width, h, w)."""
        cells = (maps + self.places(maps)).flatten(2).transpose(1, 2)
        return self.blocks(cells).transpose(1, 2).unflatten(2, maps.shape[-2:])
