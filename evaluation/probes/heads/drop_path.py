"""Stochastic depth in a frozen encoder while a head is trained, as in the BioVFM authors' probing code.

Their encoders in DINOv2's form stay in training mode and therefore drop whole images from residual branches
(`drop_add_residual_stochastic_depth` of DINOv2). In each branch, a newly drawn share `1 - rate` of the batch passes
through; its residual is scaled by the number of images in the batch over the number drawn. Their MAE encoders and the
other encoders have no stochastic depth.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ...encoders.embed import Augmentation, prefetch
from ...encoders.encoder import Encoder
from ...encoders.pooling import case_features
from ...tasks import Split

RATE, LARGE_RATE = 0.3, 0.4
TOGETHER = 128  # most images of a batch of cases that pass through the encoder at once
LARGE_WIDTH = 1280  # the authors' models of this width or more (huge, giant) have the higher rate


def drop_rate(encoder: Encoder) -> float:
    """The rate at which the authors drop an encoder's residual branches; 0 if it is not of DINOv2's form."""
    scales = residual_scales(encoder.module)
    if not scales:
        return 0.0
    width = max(parameter.numel() for scale in scales for parameter in scale.parameters())
    return LARGE_RATE if width >= LARGE_WIDTH else RATE


def residual_scales(module: nn.Module) -> list[nn.Module]:
    """The LayerScale at the end of each residual branch, by which DINOv2's form is recognised."""
    return [part for part in module.modules() if type(part).__name__.endswith("LayerScale")]


@contextmanager
def dropping(module: nn.Module, rate: float, generator: torch.Generator) -> Iterator[None]:
    """Make a module drop images from its residual branches within the context."""
    hooks = [
        scale.register_forward_hook(partial(_drop, rate=rate, generator=generator))
        for scale in residual_scales(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _drop(module: nn.Module, inputs: tuple, residual: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """A branch's residual (B, N, D), zero for the dropped images and scaled up for the others."""
    count = len(residual)
    kept = max(int(count * (1 - rate)), 1)
    factors = torch.zeros(count)
    factors[torch.randperm(count, generator=generator)[:kept]] = count / kept
    return residual * factors.to(residual).view(-1, *[1] * (residual.ndim - 1))


@dataclass(frozen=True)
class NoisyFeatures:
    """Mean patch tokens before the final norm for batches of training cases, with stochastic depth in the encoder.

    Attributes:
        encoder: an encoder in DINOv2's form.
        split: the training cases; the vectors of a case with several images are pooled.
        rate: share of dropped images.
        seed: random seed of the dropped images and the augmentation.
        views: number of augmented views, used in turn over the epochs; 0 for none.
        pool: one of `encoders.pooling.POOLS`.
    """

    encoder: Encoder
    split: Split
    rate: float
    seed: int
    views: int = 0
    pool: str = "mean"

    def __call__(self, epoch: int, batches: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Features (B, D) of each batch of cases in turn; the next images load meanwhile."""
        images = [self._images_of(rows) for rows in batches]
        loaded = prefetch(lambda numbers: [self._load(part, epoch) for part in _parts(numbers)], images)
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]))
        encoder = replace(self.encoder, compiled=[])  # compiled code bypasses hooks
        for rows, numbers, pixels in zip(batches, images, loaded, strict=True):
            with dropping(encoder.module, self.rate, generator):
                vectors = [encoder.encode(part).summary()["mean_raw"].cpu().numpy() for part in pixels]
            yield self._pooled(np.concatenate(vectors), rows, numbers)

    def _images_of(self, rows: np.ndarray) -> np.ndarray:
        cases = self.split.case_of_image
        return rows if cases is None else np.flatnonzero(np.isin(cases, rows))

    def _load(self, numbers: np.ndarray, epoch: int) -> Tensor:
        images = [self.split.images[int(number)] for number in numbers]
        if self.views:
            augment = Augmentation(epoch % self.views, self.seed)
            images = [augment(image, int(number)) for image, number in zip(images, numbers, strict=True)]
        return self.encoder.preprocess(images)

    def _pooled(self, vectors: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """One vector for each of the cases `rows`, in that order."""
        if self.split.case_of_image is None:
            return vectors
        known, place = np.unique(self.split.case_of_image[numbers], return_inverse=True)
        return case_features(vectors, place, self.pool)[np.searchsorted(known, rows)]


def _parts(numbers: np.ndarray) -> list[np.ndarray]:
    """Images in groups that pass through the encoder together."""
    return np.array_split(numbers, -(-len(numbers) // TOGETHER))
