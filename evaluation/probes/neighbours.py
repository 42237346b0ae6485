"""Finds the nearest neighbours of vectors by cosine similarity, exactly also where all vectors are nearly equal."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ..encoders.device import has_bfloat16
from .candidates import Candidates
from .products import BLOCK, TILE, best_first, largest_products

GIVEN = 256  # queries whose neighbours are yielded at a time
CACHED = 64  # vectors brought to length 1 at a time
SAMPLE = 4096  # rows whose mean all vectors are taken from
SPARE = 48  # candidates besides two for each neighbour
MANY = 1024  # queries from which on it pays to round the support to bfloat16
FEW = 1 / 128  # share of the support that candidates may be at most
TRIAL = 64  # queries by which it is seen whether bfloat16 is of use
FUTILE = 0.5  # share of unsure queries from which on it is not


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

    A large search on a processor with bfloat16 finds `Candidates` first, in about half the time. Queries for which
    these do not surely include the nearest are searched in float32.
    """
    import torch

    number = 2 * count + SPARE
    pays = len(queries) >= MANY and number <= FEW * len(support) and has_bfloat16()
    candidates = Candidates(support, number) if pays else None
    board = torch.empty(min(BLOCK, len(queries)), TILE)
    first = TRIAL if candidates else BLOCK
    for start, end in pairwise(dict.fromkeys([0, *range(first, len(queries), BLOCK), len(queries)])):
        part = torch.from_numpy(queries[start:end].copy())
        part[:, -1] = -1  # times b'b / 2
        own = torch.arange(start, end) if skip_self else torch.full((len(part),), -1)
        similarity, rows = torch.empty(len(part), count), torch.empty(len(part), count, dtype=torch.int64)
        left = torch.ones(len(part), dtype=torch.bool)
        if candidates:
            similarity, rows, sure = candidates.nearest(part, count, own)
            left = ~sure
            candidates = candidates if left.float().mean() < FUTILE else None
        if left.any():
            found = largest_products(part[left], torch.from_numpy(support), count, own[left], board)
            similarity[left], rows[left] = best_first(*found, count)
        yield from zip(similarity.split(GIVEN), rows.split(GIVEN), strict=True)
