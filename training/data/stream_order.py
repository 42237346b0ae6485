"""The order of streamed images, computed from seed and position.

A shuffle buffer cannot be resumed exactly, since its content is lost. So images are shuffled only with their
neighbours. The row groups are dealt to `lanes`; a lane shuffles its row groups every pass, takes a few of them at a
time (a window) and shuffles their rows. Consecutive pieces of a batch come from consecutive lanes, so that a batch is
mixed; a loader worker reads few lanes, so that it keeps few row groups.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from .order import permute

_WINDOW = 4  # row groups shuffled together
_GROUPS_PER_LANE = 16  # at least this many row groups per lane, so that lanes are nearly equal
_BLOCK = 1024  # positions in a block, which strata share by weight
_CYCLE = 64  # blocks in a cycle, after which remainders even out
_PIECE = 8  # consecutive positions from one lane


class StreamOrder:
    """The row at each position: every row once per pass of its lane, in a local, seeded order.

    Args:
        sizes: rows of each row group; rows are numbered row group by row group.
        seed: chooses the order.
        batch: images of a batch.
        lanes: at most this many.

    Lanes have nearly the same number of images and start their next pass independently, so over a run every image is
    seen equally often, to within a few per cent of a pass.
    """

    def __init__(self, sizes: NDArray[np.integer], seed: int, batch: int, lanes: int) -> None:
        self.seed = seed
        self.piece = gcd(batch, _PIECE)
        lanes = max(1, min(lanes, len(sizes) // _GROUPS_PER_LANE))
        self.lanes: list[list[int]] = [[] for _ in range(lanes)]
        filled = np.zeros(len(self.lanes), dtype=np.int64)
        for group in np.argsort(-sizes, kind="stable"):  # the largest row group first, each to the emptiest lane
            lane = int(filled.argmin())
            self.lanes[lane].append(int(group))
            filled[lane] += sizes[group]
        self.filled = filled
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self._window = lru_cache(maxsize=4 * len(self.lanes))(self._plan)

    def indices(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """The row at each position."""
        positions = np.asarray(positions, dtype=np.int64)
        row, lanes = np.divmod(positions // self.piece, len(self.lanes))
        passes, places = np.divmod(row * self.piece + positions % self.piece, self.filled[lanes])
        result = np.empty(len(positions), dtype=np.int64)
        for lane, number in sorted(set(zip(lanes.tolist(), passes.tolist(), strict=True))):
            here = np.flatnonzero((lanes == lane) & (passes == number))
            result[here] = self._in_pass(lane, number, places[here])
        return result

    def _in_pass(self, lane: int, number: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        groups, begins = self._window(lane, number)
        windows = np.searchsorted(begins, places, side="right") - 1
        result = np.empty(len(places), dtype=np.int64)
        for window in np.unique(windows).tolist():
            here = windows == window
            members = groups[window * _WINDOW : (window + 1) * _WINDOW]
            ends = np.cumsum(self.sizes[members])
            key = _key(self.seed, lane, number, window)
            rows = permute(places[here] - begins[window], int(ends[-1]), key)
            which = np.searchsorted(ends, rows, side="right")
            result[here] = self.starts[members[which]] + rows - (ends - self.sizes[members])[which]
        return result

    def _plan(self, lane: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The lane's row groups in the order of its pass `number`, and the start of each window."""
        members = np.array(self.lanes[lane])
        key = _key(self.seed, lane, number)
        groups = members[permute(np.arange(len(members)), len(members), key)]
        begins = np.concatenate([[0], np.cumsum(self.sizes[groups])])
        return groups, begins[:-1:_WINDOW]


class WeightedStreamOrder:
    """A stream whose groups of images are drawn by weight. Each such group is a stratum, a `StreamOrder` of its own.

    In every block of positions each stratum has its share, to within one; over a cycle of blocks the remainders even
    out. So the number of a stratum's images before any position follows from a formula, and the order is still
    computed from seed and position.

    Args:
        members: image numbers of each stratum, ascending.
        weights: relative weight of each stratum.
        starts: number of the first image of each row group, and how many images there are.
        seed: chooses the order.
        batch: images of a batch.
        lanes: of all strata together.
    """

    def __init__(
        self,
        members: Sequence[NDArray[np.integer]],
        weights: Sequence[float],
        starts: NDArray[np.int64],
        seed: int,
        batch: int,
        lanes: int,
    ) -> None:
        self.seed = seed
        self.members = members
        shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        self.orders: list[StreamOrder | None] = []
        for number, rows in enumerate(members):
            sizes = np.diff(np.searchsorted(rows, starts))
            own = max(1, round(lanes * shares[number]))
            chosen = shares[number] > 0
            self.orders.append(StreamOrder(sizes[sizes > 0], _key(seed, number), batch, own) if chosen else None)
        edges = np.concatenate([[0.0], np.cumsum(shares)[:-1], [1.0]]) * _BLOCK
        offsets = np.arange(_CYCLE)[:, None] / _CYCLE
        self._firsts = np.clip(np.ceil(edges - offsets), 0, _BLOCK).astype(np.int64)  # (cycle, strata + 1)
        counts = np.diff(self._firsts, axis=1)
        self._before = np.concatenate([np.zeros((1, len(members)), dtype=np.int64), np.cumsum(counts, axis=0)])

    def indices(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """The image number at each position."""
        blocks, places = np.divmod(np.asarray(positions, dtype=np.int64), _BLOCK)
        result = np.empty(len(blocks), dtype=np.int64)
        for block in np.unique(blocks).tolist():
            here = np.flatnonzero(blocks == block)
            cycle, phase = divmod(block, _CYCLE)
            ranks = permute(places[here], _BLOCK, _key(self.seed, block))
            firsts = self._firsts[phase]
            chosen = np.searchsorted(firsts, ranks, side="right") - 1
            drawn = cycle * self._before[-1] + self._before[phase] - firsts[:-1]
            for stratum in np.unique(chosen).tolist():
                those, order = chosen == stratum, self.orders[stratum]
                assert order is not None
                result[here[those]] = self.members[stratum][order.indices(drawn[stratum] + ranks[those])]
        return result


def _key(*numbers: int) -> int:
    key = 0
    for number in numbers:
        key = key * 1_000_003 + number + 1
    return key
