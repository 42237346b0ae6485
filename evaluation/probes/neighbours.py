"""Finds the nearest neighbours of vectors by cosine similarity, exactly also where all vectors are nearly equal."""

from collections.abc import Iterator
from threading import local
from typing import TYPE_CHECKING

import numpy as np

from biovfm_hf.threads import in_lanes

from ..encoders.device import has_bfloat16
from .candidates import Candidates
from .products import BLOCK, best_first, largest_products

if TYPE_CHECKING:
    from torch import Tensor

GIVEN = 256  # queries whose neighbours are yielded at a time
CACHED = 64  # vectors brought to length 1 at a time
SAMPLE = 4096  # rows whose mean all vectors are taken from
SPARE = 48  # candidates besides two for each neighbour
MANY = 2048  # queries from which on it pays to round the support to bfloat16
FEW = 1 / 128  # share of the support that candidates may be at most
TRIAL = 64  # queries by which it is seen, on every `THIN`th row of the support, whether bfloat16 is of use
THIN = 8
SURE = 0.85  # share of sure queries from which on it is


def unit_centre(features: np.ndarray) -> np.ndarray:
    """Roughly the mean (D,) float64 of feature vectors (N, D) at length 1, from 1 to 2 times `SAMPLE` of the rows."""
    sample = features[:: max(len(features) // SAMPLE, 1)]
    return sum((unit.sum(0) for _, unit, _ in unit_blocks(sample)), np.zeros(features.shape[1])) / max(len(sample), 1)


def unit_blocks(features: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield rows, their vectors at length 1, and their lengths, float64, in memory that stays in a core's cache.

    The next vectors take the place of these. A vector of zeros stays zero.
    """
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

    def write(first: int) -> None:
        own = offsets[first : first + BLOCK]
        for rows, unit, lengths in unit_blocks(features[first : first + BLOCK]):
            part = own[rows, :width]
            np.subtract(unit, centre, out=part, casting="same_kind")
            own[rows, width] = np.einsum("nd,nd->n", part, part) / 2 + (lengths == 0) / 2

    for _ in in_lanes(write, range(0, len(features), BLOCK)):
        pass
    return offsets


def nearest(queries: np.ndarray, support: np.ndarray, count: int, skip_self: bool = False) -> Iterator[tuple]:
    """Yield (similarities (B, count), support rows (B, count)), tensors, for blocks of queries, best first.

    Similarities are cosines up to a constant for each query. Queries and support are `unit_offsets` (N, D + 1) from a
    centre near the support's mean. With `skip_self` the queries are the support itself, and no case is its own
    neighbour.

    A large search on a processor with bfloat16 finds `Candidates` first, if in a trial these surely include the
    nearest for most queries: not where vectors lie in tight clusters. Other queries are searched in float32.
    """
    import torch

    boards = local()
    candidates = _useful_candidates(queries, support, count, skip_self, boards)

    def search(start: int) -> tuple["Tensor", "Tensor"]:
        part, own = _some(queries, slice(start, start + BLOCK), skip_self)
        if candidates:
            similarity, rows, sure = candidates.nearest(part, count, own, boards)
        else:
            similarity, rows = torch.empty(len(part), count), torch.empty(len(part), count, dtype=torch.int64)
            sure = torch.zeros(len(part), dtype=torch.bool)
        left = ~sure
        if left.any():
            found = largest_products(part[left], torch.from_numpy(support), count, own[left], boards)
            similarity[left], rows[left] = best_first(*found, count)
        return similarity, rows

    for similarity, rows in in_lanes(search, range(0, len(queries), BLOCK)):
        yield from zip(similarity.split(GIVEN), rows.split(GIVEN), strict=True)


def _some(queries: np.ndarray, rows: slice, skip_self: bool) -> tuple["Tensor", "Tensor"]:
    """Some queries, -1 in their last column, and the support's rows that they are (-1 for none)."""
    import torch

    part = torch.from_numpy(queries[rows].copy())
    part[:, -1] = -1  # times b'b / 2
    own = torch.arange(*rows.indices(len(queries))) if skip_self else torch.full((len(part),), -1)
    return part, own


def _useful_candidates(
    queries: np.ndarray, support: np.ndarray, count: int, skip_self: bool, boards: local
) -> Candidates | None:
    """What finds candidates, if that pays: for a large search in which most queries of a trial are sure."""
    import torch

    number = 2 * count + SPARE
    if len(queries) < MANY or number > FEW * len(support) or not has_bfloat16():
        return None
    part, own = _some(queries, slice(None, None, -(-len(queries) // TRIAL)), skip_self)
    few = Candidates(support[::THIN], -(-number // THIN))
    sure = few.nearest(part, -(-count // THIN), torch.full_like(own, -1), boards)[2]
    return Candidates(support, number) if sure.float().mean() >= SURE else None
