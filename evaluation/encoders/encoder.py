"""An encoder: a frozen vision model with its preprocessing. Encoders of all families return `tokens.Encoded`."""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..tasks.images import is_grey, to_rgb
from .tokens import Compiled, Encoded, Reader, Reading, run, running

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """A segmentation network that is trained without an encoder: its name, and a file of pretrained weights."""

    name: str
    weights: Path | None = None


@dataclass
class Encoder:
    """A frozen vision model with its own preprocessing.

    Attributes:
        name: its name in results.
        revision: a digest of the weights and of the settings with which they are read.
        module: the torch module.
        preprocess: uint8 images (H, W, 3) of any size -> float (B, 3, S, S).
        preprocessing: a description of `preprocess`; part of the cache key.
        size: S, pixels.
        mean, std: per channel, of pixel values in 0..1; for preprocessing that must keep masks aligned.
        device: where the module is.
        precision: `fp32`, or `bf16` for bfloat16 autocast.
        compiled: its blocks, compiled by `torch.compile`; empty if it runs uncompiled.
        reading: facts about the module that `read` needs.
        read: runs the module and returns its tokens, like `tokens.run`.
        features: the kind of `tokens.FEATURES` that its card recommends as an image's vector.
        notes: caveats for readers of its results; every record has them.
        network: the segmentation network that is trained in place of a frozen model, if there is one.
    """

    name: str
    revision: str
    module: "nn.Module"
    preprocess: Callable[[Sequence[np.ndarray]], "Tensor"]
    preprocessing: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str = "cpu"
    precision: str = "fp32"
    compiled: Compiled = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)
    read: Reader = run
    features: str = "both"
    notes: tuple[str, ...] = ()
    network: Network | None = None

    def encode(self, pixel_values: "Tensor", blocks: int = 0) -> Encoded:
        """Encode (B, 3, H, W) without gradients, in the encoder's precision; features are float32.

        Raises:
            UserError: `blocks` is above 0, but the model has no equal blocks.
        """
        import torch

        kind = torch.device(self.device).type
        self.module.eval()
        precision = torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16")
        pixels = pixel_values.to(self.device, non_blocking=pixel_values.is_pinned())
        # not inference_mode, because modules that keep a tensor (BEiT's positions) could not be fine-tuned afterwards
        with torch.no_grad(), precision, running(self.compiled):
            encoded = self.read(self.module, pixels, blocks, self.reading)
        return Encoded(
            encoded.tokens.float(),
            encoded.normed.float(),
            encoded.grid,
            None if encoded.pooled is None else encoded.pooled.float(),
            [block.float() for block in encoded.blocks],
            [token.float() for token in encoded.classes],
            None if encoded.vector is None else encoded.vector.float(),
        )

    def vector_kind(self, which: str) -> str:
        """The kind of vector that `which` of `tokens.FEATURES` means; `card` is the kind that the card recommends."""
        return self.features if which == "card" else which

    def twin(self) -> "Encoder":
        """A second encoder that shares the weights in memory and may run in another thread at the same time.

        Reading registers hooks on a module (see `tokens.run`), so a module serves only one thread at a time.
        """
        weights = itertools.chain(self.module.parameters(), self.module.buffers())
        return replace(self, module=copy.deepcopy(self.module, {id(tensor): tensor for tensor in weights}))


def to_square(images: Sequence[np.ndarray], size: int, mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """Resize uint8 images (H, W, 3) to (B, 3, size, size), bicubic with antialiasing, and normalise."""
    import torch
    from PIL import Image

    def resize(image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == (size, size):
            return image
        picture = Image.fromarray(image[..., 0] if is_grey(image) else image)
        return to_rgb(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)), "an image")

    resized = [resize(image) for image in images]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float().div_(255)
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
