"""TransUNet (Chen et al. 2021, arXiv 2102.04306): R50-ViT-L_16 with its published sizes.

Tensors have the names of the published code, so that weights trained with that code can be loaded.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

UNITS = (3, 4, 9)  # of the stages of the convolutional part
STEM = 64
WIDTH, MLP, BLOCKS, HEADS = 1024, 4096, 24, 16
DECODER = (512, 256, 128, 64, 16)
SKIPS = (512, 256, 64, 0)  # channels of the skips, coarsest first
GROUPS = 32
DROPOUT = 0.1
EPS = 1e-6


class StandardConv(nn.Conv2d):
    """A convolution whose weights have mean 0 and variance 1 in every output channel."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H / stride, W / stride)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-5)
        return functional.conv2d(maps, weight, self.bias, self.stride, self.padding)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=EPS)


class Bottleneck(nn.Module):
    """Three convolutions with `inner` channels in between, added to the input."""

    def __init__(self, inputs: int, outputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = StandardConv(inputs, inner, 1, bias=False), _group_norm(inner)
        self.conv2 = StandardConv(inner, inner, 3, stride, padding=1, bias=False)
        self.gn2 = _group_norm(inner)
        self.conv3, self.gn3 = StandardConv(inner, outputs, 1, bias=False), _group_norm(outputs)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.downsample = StandardConv(inputs, outputs, 1, stride, bias=False)
            self.gn_proj = nn.GroupNorm(outputs, outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        inner = functional.relu(self.gn1(self.conv1(maps)))
        inner = functional.relu(self.gn2(self.conv2(inner)))
        shortcut = self.gn_proj(self.downsample(maps)) if self.projects else maps
        return functional.relu(shortcut + self.gn3(self.conv3(inner)))


def _stage(inputs: int, inner: int, units: int, stride: int) -> nn.Sequential:
    outputs = 4 * inner
    steps = nn.Sequential()
    for unit in range(units):
        first = unit == 0
        block = Bottleneck(inputs if first else outputs, outputs, inner, stride if first else 1)
        steps.add_module(f"unit{unit + 1}", block)
    return steps


class HybridStem(nn.Module):
    """The convolutional part: a ResNet without its last stage; some of its maps are the decoder's skips."""

    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Sequential()
        self.root.add_module("conv", StandardConv(3, STEM, 7, 2, padding=3, bias=False))
        self.root.add_module("gn", _group_norm(STEM))
        self.root.add_module("relu", nn.ReLU())
        self.body = nn.Sequential()
        inputs = STEM
        for level, units in enumerate(UNITS):
            inner = STEM << level
            self.body.add_module(f"block{level + 1}", _stage(inputs, inner, units, 2 if level else 1))
            inputs = 4 * inner

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) -> (B, 1024, H / 16, W / 16) and the maps of 1/8, 1/4 and 1/2 of the side."""
        height, width = images.shape[-2:]
        maps = self.root(images)
        skips = [maps]
        maps = functional.max_pool2d(maps, 3, 2)  # one row and column short, filled up with zeros
        for level, stage in enumerate(self.body[:-1]):
            maps = stage(maps)
            below, right = (height >> (2 + level)) - maps.shape[-2], (width >> (2 + level)) - maps.shape[-1]
            skips.append(functional.pad(maps, (0, right, 0, below)))
        return self.body[-1](maps), skips[::-1]


class Embeddings(nn.Module):
    """Cells of the convolutional part as tokens, with learned positions for one image size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hybrid_model = HybridStem()
        self.patch_embeddings = nn.Conv2d(STEM * 16, WIDTH, 1)
        self.position_embeddings = nn.Parameter(torch.zeros(1, (size // 16) ** 2, WIDTH))

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) -> tokens (B, n, 1024) and the skips."""
        maps, skips = self.hybrid_model(images)
        tokens = self.patch_embeddings(maps).flatten(2).transpose(1, 2) + self.position_embeddings
        return functional.dropout(tokens, DROPOUT, self.training), skips


class Attention(nn.Module):
    """Self-attention with `HEADS` heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, 1024) -> (B, n, 1024)."""
        split = [
            layer(tokens).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        ]
        read = functional.scaled_dot_product_attention(*split)
        return self.out(read.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two layers with a GELU between them, applied to each token."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, MLP), nn.Linear(MLP, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, 1024) -> (B, n, 1024)."""
        inner = functional.dropout(functional.gelu(self.fc1(tokens)), DROPOUT, self.training)
        return functional.dropout(self.fc2(inner), DROPOUT, self.training)


class TransformerBlock(nn.Module):
    """Attention and a feed-forward part, each after a norm and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(WIDTH, EPS), nn.LayerNorm(WIDTH, EPS)
        self.attn, self.ffn = Attention(), FeedForward()

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, 1024) -> (B, n, 1024)."""
        tokens = tokens + self.attn(self.attention_norm(tokens))
        return tokens + self.ffn(self.ffn_norm(tokens))


class TransformerBlocks(nn.Module):
    """All blocks, followed by a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(TransformerBlock() for _ in range(BLOCKS))
        self.encoder_norm = nn.LayerNorm(WIDTH, EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, 1024) -> (B, n, 1024)."""
        for block in self.layer:
            tokens = block(tokens)
        return self.encoder_norm(tokens)


class HybridTransformer(nn.Module):
    """The encoder: convolutions, then a transformer on their coarsest cells."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embeddings, self.encoder = Embeddings(size), TransformerBlocks()

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) -> a map (B, 1024, H / 16, W / 16) and the skips."""
        tokens, skips = self.embeddings(images)
        grid = tuple(side // 16 for side in images.shape[-2:])
        return self.encoder(tokens).transpose(1, 2).unflatten(2, grid), skips


def _conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class UpBlock(nn.Module):
    """Doubles a map's side, joins it with a skip, and mixes both with two convolutions."""

    def __init__(self, inputs: int, outputs: int, skip: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv_bn_relu(inputs + skip, outputs), _conv_bn_relu(outputs, outputs)

    def forward(self, maps: Tensor, skips: list[Tensor]) -> Tensor:
        """(B, inputs, h, w) and no or one (B, skip, 2h, 2w) -> (B, outputs, 2h, 2w)."""
        maps = functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)
        return self.conv2(self.conv1(torch.cat([maps, *skips], 1)))


class CascadedDecoder(nn.Module):
    """Four doublings, the first three with skips."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_more = _conv_bn_relu(WIDTH, DECODER[0])
        self.blocks = nn.ModuleList(
            UpBlock(inputs, outputs, skip) for (inputs, outputs), skip in zip(pairwise(DECODER), SKIPS, strict=True)
        )

    def forward(self, maps: Tensor, skips: list[Tensor]) -> Tensor:
        """(B, 1024, H / 16, W / 16) and three skips, coarsest first -> (B, 16, H, W)."""
        maps = self.conv_more(maps)
        for level, block in enumerate(self.blocks):
            maps = block(maps, skips[level : level + 1])
        return maps


class TransUNet(nn.Module):
    """Images (B, 3, size, size) to class scores (B, classes, size, size).

    Args:
        classes: number of classes with background.
        size: image size in pixels, a multiple of 16.
    """

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.transformer, self.decoder = HybridTransformer(size), CascadedDecoder()
        self.segmentation_head = nn.Sequential(nn.Conv2d(DECODER[-1], classes, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) -> (B, classes, size, size)."""
        return self.segmentation_head(self.decoder(*self.transformer(images)))
