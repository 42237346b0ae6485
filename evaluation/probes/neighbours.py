"""Finds the nearest neighbours of vectors by cosine similarity, exactly also where all vectors are nearly equal."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1024  # queries of a product; 256 at a time would take a fifth longer
GIVEN = 256  # queries whose neighbours are yielded at a time
CACHED = 64  # vectors brought to length 1 at a time
SAMPLE = 4096  # rows whose mean all vectors are taken from
TILE = 25_600  # support rows at a time, a multiple of GROUP: a board of 105 MB, and few selections per query
GROUP = 8  # columns of which the maximum is looked at first


def unit_centre(features: np.ndarray) -> np.ndarray:
    """Roughly the mean (D,) float64 of feature vectors (N, D) at length 1, from 1 to 2 times `SAMPLE` of the rows."""
    sample = features[:: max(len(features) // SAMPLE, 1)]
    return sum((unit.sum(0) for _, unit, _ in _unit(sample)), np.zeros(features.shape[1])) / max(len(sample), 1)


def _unit(features: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows, their vectors at length 1, and their lengths, float64, in memory that stays in a core's cache."""
    board = np.empty((CACHED, features.shape[1]))
    for start in range(0, len(features), CACHED):
        rows = slice(start, min(start + CACHED, len(features)))
        unit = board[: rows.stop - start]
        unit[:] = features[rows]
        lengths = np.sqrt(np.einsum("nd,nd->n", unit, unit))
        unit *= 1 / np.where(lengths > 0, lengths, 1)[:, None]
        yield rows, unit, lengths


def unit_offsets(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Unit vectors of features (N, D) minus `centre`: (N, D + 1) float32.

    The last column is half the squared length of the difference.

    An untrained model's class tokens differ by about 1e-5, so their cosines round to 1 in float32. The product of unit
    vectors c + a and c + b is a'b - (a'a + b'b) / 2 + 1. `nearest` leaves out the 1, so it sums only small numbers. A
    zero vector stays zero; its last column gets 1/2 more, because its product would be too large by that.
    """
    width = features.shape[1]
    offsets = np.empty((len(features), width + 1), np.float32)
    for rows, unit, lengths in _unit(features):
        part = offsets[rows, :width]
        np.subtract(unit, centre, out=part, casting="same_kind")
        offsets[rows, width] = np.einsum("nd,nd->n", part, part) / 2 + (lengths == 0) / 2
    return offsets


def nearest(queries: np.ndarray, support: np.ndarray, count: int, skip_self: bool = False) -> Iterator[tuple]:
    """Yield (similarities (B, count), support rows (B, count)), tensors, for blocks of queries, best first.

    Similarities are cosines up to a constant for each query. Queries and support are `unit_offsets` (N, D + 1) from a
    centre near the support's mean. With `skip_self` the queries are the support itself, and no case is its own
    neighbour.
    """
    import torch

    board = np.empty((min(BLOCK, len(queries)), TILE), np.float32)  # fresh memory for each product would take as long
    for start in range(0, len(queries), BLOCK):
        part = queries[start : start + BLOCK].copy()
        part[:, -1] = -1  # times b'b / 2
        own = np.arange(start, start + len(part)) if skip_self else np.empty(0, int)
        tiles = [
            _nearest_of(part, support, slice(first, first + TILE), count, own, board)
            for first in range(0, len(support), TILE)
        ]
        similarity, rows = (torch.cat(parts, 1) for parts in zip(*tiles, strict=True))
        similarity, places = similarity.topk(count, dim=1)
        yield from zip(similarity.split(GIVEN), rows.gather(1, places).split(GIVEN), strict=True)


def _nearest_of(
    queries: np.ndarray, support: np.ndarray, tile: slice, count: int, own: np.ndarray, board: np.ndarray
) -> tuple["Tensor", "Tensor"]:
    """As `nearest`, among the rows `tile` of the support; `own` are the queries' own rows in it, if they have any."""
    import torch

    offsets = support[tile]
    width = len(offsets)
    board = board[: len(queries), : -(-width // GROUP) * GROUP]
    if _is_intel():
        torch.mm(torch.from_numpy(queries), torch.from_numpy(offsets).T, out=torch.from_numpy(board[:, :width]))
    else:
        np.matmul(queries, offsets.T, out=board[:, :width])
    board[:, width:] = -np.inf
    inside = np.flatnonzero((own >= tile.start) & (own < tile.start + width))
    board[inside, own[inside] - tile.start] = -np.inf
    largest, rows = _largest(torch.from_numpy(board), min(count, width))
    return largest, rows + tile.start


@lru_cache
def _is_intel() -> bool:
    """Whether Linux names an Intel processor: there torch's product takes 0.9 of NumPy's time, on AMD more than 1."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _largest(values: "Tensor", count: int) -> tuple["Tensor", "Tensor"]:
    """The `count` largest values of each row and their columns, in no order.

    They are looked for only in the groups of `GROUP` columns with the best maxima, in a third of the time of `topk`.
    """
    groups = values.unflatten(1, (GROUP, -1))
    if groups.shape[2] < 2 * count:
        places = _places(values, count)
        return values.gather(1, places), places
    best = _places(groups.amax(1), count)
    values = groups.gather(2, best[:, None].expand(-1, GROUP, -1)).flatten(1)
    places = _places(values, count)
    return values.gather(1, places), places // count * groups.shape[2] + best.gather(1, places % count)


def _places(values: "Tensor", count: int) -> "Tensor":
    """The columns of the `count` largest values of each row, by NumPy, which takes a third of torch's time."""
    import torch

    return torch.from_numpy(np.argpartition(values.numpy(), -count, axis=1)[:, -count:])
