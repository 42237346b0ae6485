"""Feeds training batches to networks: tokens cached on disk, or the images themselves."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...encoders.embed import prefetch
from ...encoders.encoder import to_square
from .augment import Augment
from .decoders import as_maps
from .problem import MaskProblem, ResizedMasks, checked_mask, resize_mask

TokenReader = Callable[[np.ndarray], list[Tensor]]  # image indices -> grids (B, h, w, D) of some blocks
Training = Iterator[tuple[Any, Tensor]]


class Feed(Protocol):
    """Inputs of a network and the masks (B, H, W) that it should predict."""

    @property
    def problem(self) -> MaskProblem:
        """The segmentation problem."""
        ...

    def inputs(self, name: str, rows: np.ndarray) -> Any:
        """Network inputs for images of a split."""
        ...

    def training(self, orders: list[np.ndarray], seeds: list[int]) -> Training:
        """Inputs and masks for batches of training images; each batch's randomness starts from its `seeds`."""
        ...

    def targets(self, name: str) -> ResizedMasks:
        """All masks of a split at the size at which scores are compared."""
        ...


@dataclass(frozen=True)
class TokenFeed:
    """Tokens from disk: inputs are maps (B, D, h, w), one per block; masks are resized to the scores' size."""

    problem: MaskProblem
    readers: Mapping[str, TokenReader]
    size: tuple[int, int]
    device: str = "cpu"
    _masks: dict[str, ResizedMasks] = field(default_factory=dict, repr=False)

    def inputs(self, name: str, rows: np.ndarray) -> list[Tensor]:
        """Maps for images of a split."""
        return as_maps(self.readers[name](rows), self.device)

    def training(self, orders: list[np.ndarray], seeds: list[int]) -> Training:
        """Maps and masks for training images."""
        masks = self.targets("train").masks
        for rows in orders:
            yield self.inputs("train", rows), torch.from_numpy(masks[rows]).long()

    def targets(self, name: str) -> ResizedMasks:
        """All masks of a split at the scores' size."""
        if name not in self._masks:
            self._masks[name] = ResizedMasks(self.problem.splits[name], self.problem.classes, self.size)
        return self._masks[name]


@dataclass(frozen=True)
class PixelFeed:
    """Images: inputs are pixels (B, 3, size, size), augmented together with their masks during training.

    After augmentation, pixel values in 0..1 are normalised by `mean` and `std`.
    """

    problem: MaskProblem
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment | None = None
    device: str = "cpu"
    _masks: dict[str, ResizedMasks] = field(default_factory=dict, repr=False)

    def inputs(self, name: str, rows: np.ndarray) -> Tensor:
        """Pixels for images of a split."""
        split = self.problem.splits[name]
        return to_square([split.images[int(row)] for row in rows], self.size, self.mean, self.std).to(self.device)

    def training(self, orders: list[np.ndarray], seeds: list[int]) -> Training:
        """Pixels and masks for training images; the next ones are loaded and augmented meanwhile."""
        numbered = list(enumerate(orders))
        yield from prefetch(lambda item: self._training_batch(item[1], [*seeds, item[0]]), numbered)

    def _training_batch(self, rows: np.ndarray, seeds: list[int]) -> tuple[Tensor, Tensor]:
        split = self.problem.splits["train"]
        pixels = to_square([split.images[int(row)] for row in rows], self.size, (0.0,) * 3, (1.0,) * 3)
        at_size = [resize_mask(checked_mask(split, int(row), self.problem.classes), self._shape) for row in rows]
        masks = torch.from_numpy(np.stack(at_size)).long()
        if self.augment is not None:
            pixels, masks = self.augment(pixels, masks, np.random.default_rng(seeds))
        mean, std = self._normalisation
        return ((pixels - mean) / std).to(self.device), masks

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean).view(3, 1, 1), torch.tensor(self.std).view(3, 1, 1)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.size, self.size

    def targets(self, name: str) -> ResizedMasks:
        """All masks of a split at the inputs' size."""
        if name not in self._masks:
            self._masks[name] = ResizedMasks(self.problem.splits[name], self.problem.classes, self._shape)
        return self._masks[name]
