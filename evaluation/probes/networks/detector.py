"""A detector on the patch tokens of a plain vision transformer: a simple feature pyramid, and torchvision's FCOS.

The pyramid is ViTDet's (Li et al. 2022, arXiv 2203.16527): from one map of stride p it makes maps of stride p/4, p/2,
p and 2p, and of 4p by pooling. FCOS (Tian et al. 2019, arXiv 1904.01355) reads them without anchor boxes. Boxes are
measured in sixteenths of a patch, whatever the patch size in pixels, so that the strides are 4 to 64 as FCOS expects.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FCOS

PATCH = 16  # units per side of a patch
STRIDES = (4, 8, 16, 32, 64)  # of the maps, in units
CHANNELS = 256  # most channels of a map
GROUPS = 32  # groups in which FCOS normalises channels; maps have a multiple of them
LEAST_SCORE, OVERLAP, MOST = 0.05, 0.6, 100  # lowest score, largest overlap of two detections, most per image


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel of a map (B, C, h, w)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """ViTDet's simple feature pyramid: tokens (B, h, w, D) to five maps of `channels`, finest first."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        half, quarter = max(width // 2, 1), max(width // 4, 1)
        finest = nn.Sequential(
            nn.ConvTranspose2d(width, half, 2, 2),
            ChannelNorm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        steps = ((finest, quarter), (nn.ConvTranspose2d(width, half, 2, 2), half), (nn.Identity(), width),
                 (nn.MaxPool2d(2, 2), width))  # fmt: skip
        self.levels = nn.ModuleList(
            nn.Sequential(
                step, nn.Conv2d(inner, channels, 1, bias=False), ChannelNorm(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False), ChannelNorm(channels),
            )
            for step, inner in steps
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> "OrderedDict[str, Tensor]":
        """The maps, by name."""
        grid = tokens.permute(0, 3, 1, 2)
        maps = [level(grid) for level in self.levels]
        maps.append(functional.max_pool2d(maps[-1], 1, 2))
        return OrderedDict((str(number), each) for number, each in enumerate(maps))


class _Backbone(nn.Module):
    """The pyramid as a backbone for FCOS, with its number of channels."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.pyramid, self.out_channels = SimplePyramid(width, channels), channels

    def forward(self, tokens: Tensor) -> "OrderedDict[str, Tensor]":
        return self.pyramid(tokens)


class Detector(nn.Module):
    """Boxes from patch tokens (B, h, w, D).

    Args:
        width: D.
        classes: number of classes.
    """

    def __init__(self, width: int, classes: int):
        super().__init__()
        channels = max(min(CHANNELS, width) // GROUPS * GROUPS, GROUPS)
        self.fcos = FCOS(
            _Backbone(width, channels), classes, score_thresh=LEAST_SCORE, nms_thresh=OVERLAP, detections_per_img=MOST
        )

    def loss(self, tokens: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        """FCOS' loss: focal, GIoU and centre-ness.

        Args:
            tokens: (B, h, w, D).
            targets: for each image `boxes` (n, 4) as left, top, right and bottom in sixteenths of a patch, and
                `labels` (n,).
        """
        outputs, anchors, counts = self._read(tokens)
        return sum(self.fcos.compute_loss(targets, outputs, [anchors] * len(tokens), counts).values(), torch.zeros(()))

    @torch.no_grad()
    def detect(self, tokens: Tensor) -> list[dict[str, Tensor]]:
        """For each image `boxes` as in `loss`, clipped to the image; `scores`, highest first; and `labels`."""
        outputs, anchors, counts = self._read(tokens)
        by_level = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
        size = (tokens.shape[1] * PATCH, tokens.shape[2] * PATCH)
        places = [list(anchors.split(counts))] * len(tokens)
        return self.fcos.postprocess_detections(by_level, places, [size] * len(tokens))

    def _read(self, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor, list[int]]:
        """FCOS's outputs, the place (n, 4) of each, and the number of outputs of each level."""
        maps = list(self.fcos.backbone(tokens).values())
        shapes = [(int(each.shape[2]), int(each.shape[3])) for each in maps]
        return self.fcos.head(maps), places_of(shapes).to(tokens), [rows * columns for rows, columns in shapes]


def places_of(shapes: list[tuple[int, int]]) -> Tensor:
    """A square around the middle of each cell of maps with these rows and columns, as large as the cell: (n, 4)."""
    parts = []
    for (rows, columns), stride in zip(shapes, STRIDES, strict=True):
        down, right = (torch.arange(float(count)) * stride for count in (rows, columns))
        top, left = torch.meshgrid(down, right, indexing="ij")
        corner = torch.stack([left, top], -1).reshape(-1, 2)
        parts.append(torch.cat([corner, corner + stride], 1))
    return torch.cat(parts)
