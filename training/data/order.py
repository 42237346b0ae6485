"""The sampling order of images: a pure function of seed and position, so that resuming needs only a step number.

A run reads an endless sequence of positions 0, 1, 2, ...; a step takes the next `batch.size` of them, each process its
own part. Neither the number of workers nor an interruption changes the image at a position.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6


def mix(values: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """A well-spread 64-bit hash of each value under `key` (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64((key * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def permute(values: NDArray[np.integer], size: int, key: int) -> NDArray[np.int64]:
    """Apply a permutation of 0..size-1, chosen by `key`, to each value, in constant memory for any size.

    A Feistel network over the next power of four, walked until it lands inside the range.
    """
    half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    low = np.uint64((1 << int(half)) - 1)
    result = np.asarray(values).astype(np.uint64)
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & low
        for number in range(_ROUNDS):
            left, right = right, left ^ (mix(right, key * _ROUNDS + number) & low)
        result[outside] = (left << half) | right
        outside = result >= np.uint64(size)
    return result.astype(np.int64)


class SampleOrder:
    """Every image once per pass, in a new order each pass; or, with weights, groups drawn by their weight.

    Args:
        size: number of images.
        seed: chooses the order.
        groups: image numbers of each group; None draws passes over all images.
        weights: relative weight of each group. Groups and their images are then drawn with replacement.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        groups: Sequence[NDArray[np.integer]] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.size = size
        self.seed = seed
        self.groups = groups
        if groups is not None:
            shares = np.asarray(weights if weights is not None else np.ones(len(groups)), dtype=np.float64)
            self._edges = np.cumsum(shares / shares.sum())

    def indices(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """The image number at each position."""
        if self.groups is not None:
            return self._weighted(positions)
        passes, places = np.divmod(positions, self.size)
        result = np.empty(len(positions), dtype=np.int64)
        for number in np.unique(passes):
            here = passes == number
            result[here] = permute(places[here], self.size, self.seed * 1_000_003 + int(number))
        return result

    def _weighted(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        assert self.groups is not None
        draws = [mix(positions.astype(np.uint64), self.seed * 2 + part) >> np.uint64(11) for part in (0, 1)]
        which, where = (draw.astype(np.float64) / 2.0**53 for draw in draws)
        chosen = np.minimum(np.searchsorted(self._edges, which, side="right"), len(self.groups) - 1)
        return np.array(
            [
                self.groups[group][int(place * len(self.groups[group]))]
                for group, place in zip(chosen, where, strict=True)
            ],
            dtype=np.int64,
        )
