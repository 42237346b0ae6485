"""Encoders with a decoder as one network, from pixels to class scores."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ...encoders.encoder import Encoder
from ..tuning.adaptations import Adaptation
from ..tuning.optimisation import make_optimizer, warmup_cosine
from .decoders import DECODER_BLOCKS, as_maps, make_decoder


class EncoderDecoder(nn.Module):
    """An encoder's module and a decoder on its tokens: pixels (B, 3, S, S) -> class scores (B, classes, h, w).

    The decoder computes in float32, even if the encoder runs under autocast. A frozen encoder stays in evaluation mode
    and keeps no gradients.

    Args:
        encoder: how to read the module, its device and its precision.
        module: the encoder's module, possibly changed by an adaptation.
        blocks: number of blocks to read, see `decoders.DECODER_BLOCKS`.
        decoder: module from maps (B, D, h, w), oldest block first, to scores.
    """

    def __init__(self, encoder: Encoder, module: nn.Module, blocks: int, decoder: nn.Module) -> None:
        super().__init__()
        self.about, self.encoder, self.blocks, self.decoder = encoder, module, blocks, decoder.to(encoder.device)
        self.frozen = not any(parameter.requires_grad for parameter in module.parameters())

    def train(self, mode: bool = True) -> "EncoderDecoder":
        """Switch to training mode, except a frozen encoder."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The encoder's maps (B, D, h, w) that the decoder reads, in float32."""
        return read_maps(self.about, self.encoder, pixels, self.blocks, gradients=not self.frozen)

    def forward(self, pixels: Tensor) -> Tensor:
        """Class scores."""
        return self.decoder(self.maps(pixels))


def read_maps(encoder: Encoder, module: nn.Module, pixels: Tensor, blocks: int, gradients: bool) -> list[Tensor]:
    """Maps (B, D, h, w) of a module's last `blocks` blocks, or of its normed tokens if `blocks` is 0."""
    kind = torch.device(encoder.device).type
    mixed = torch.autocast(kind, torch.bfloat16, enabled=encoder.precision == "bf16")
    with torch.set_grad_enabled(gradients and torch.is_grad_enabled()), mixed:
        encoded = encoder.read(module, pixels, blocks, encoder.reading)
        return as_maps(encoded.blocks if blocks else [encoded.patches()], encoder.device)


def adapted(encoder: Encoder, adaptation: Adaptation | None, decoder: str, classes: int, size: int) -> EncoderDecoder:
    """A copy of an encoder with a new decoder; an adaptation chooses the encoder's trained weights, None trains none.

    Args:
        encoder: the encoder to copy.
        adaptation: which weights are trained.
        decoder: one of `decoders.DECODER_BLOCKS`.
        classes: number of classes with background.
        size: image size in pixels.
    """
    module = copy.deepcopy(encoder.module) if adaptation else encoder.module
    module = adaptation.prepare(module) if adaptation else module.requires_grad_(False)
    blocks, width = DECODER_BLOCKS[decoder], token_width(encoder, size)
    return EncoderDecoder(encoder, module, blocks, make_decoder(decoder, width, classes))


def token_width(encoder: Encoder, size: int) -> int:
    """Width D of an encoder's tokens for square images of a size."""
    return int(encoder.encode(torch.zeros(1, 3, size, size)).tokens.shape[-1])


def tune(network: Any, rate: float, steps: int) -> tuple[Optimizer, LRScheduler]:
    """AdamW on the trained weights of an `EncoderDecoder`, with a warm-up and a cosine."""
    optimizer = make_optimizer(network.encoder, network.decoder, rate)
    return optimizer, LambdaLR(optimizer, warmup_cosine(steps))


def scores_size(network: nn.Module, inputs: Any) -> tuple[int, int]:
    """Height and width of a network's scores for some inputs."""
    with torch.no_grad():
        height, width = network(inputs).shape[-2:]
    return int(height), int(width)


def first_rows(count: int) -> np.ndarray:
    """The first two of `count` images, or the only one; batch statistics need two."""
    return np.arange(min(2, count))
