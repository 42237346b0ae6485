"""Finds near duplicates: pictures that look like an earlier one, in linear time for crowds of look-alikes.

The rule goes through the pictures in order. A picture is dropped if it looks like an earlier standing one of another
file: their perceptual hashes differ by at most RADIUS bits, and the textures of their thumbnails correlate by at least
SIMILARITY. A picture that is not dropped stands, except beyond the first STANDING of one hash: those are kept, but
later pictures are not compared with them. So the first picture of a group stays, with every one that looks like none
of those that stayed before it.

To decide on all at once, the pictures are halved: the standing pictures of the first half are compared with the second
half, their look-alikes there are dropped, and each half is treated in the same way. In a crowd of look-alikes each
picture costs one comparison. Pictures with near hashes and different textures all stand, so n of them cost up to
n * n / 2 products of vectors. Pairs are compared in pieces, so memory stays bounded.

CPU time on one core of an EPYC: 20,000 pictures that look alike take 0.6 s, 200,000 take 7.2 s. If their hashes are
near but all textures differ, 2,000 take 0.8 s, 4,000 3.1 s, 8,000 12.9 s (181, 222 and 248 MiB in all). A million
pictures with 20,000 pairs among them take 2.5 s.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from .hashing import SIMILARITY, Rows, textures
from .near_hashes import neighbours, with_neighbours

RADIUS = 4  # bits by which the perceptual hashes of near duplicates may differ
STANDING = 16  # pictures of one hash with which later ones are compared
_FEW = 256  # up to this many pictures are compared one by one, in order
_PIECE = 2**14  # pairs whose textures are in memory at a time, at most 100 MB


def look_alikes(
    hashes: np.ndarray,
    files: np.ndarray,
    thumbnails: Rows,
    shown: np.ndarray,
    scratch: Path | None = None,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """The dropped pictures, and the standing picture that each looks most like (of equals the earliest).

    Args:
        hashes: uint64 (n,), in the order in which pictures are preferred.
        files: (n,), equal for pictures of one file, which are never compared.
        thumbnails: uint8 (m, 784); only those of suspects are read.
        shown: int64 (n,), the row of each picture's thumbnail.
        scratch: a folder for temporary files of 3 KB for each suspect; by default the system's.
        threads: how many look for suspects.

    Returns:
        Two int64 arrays of the same length: numbers of pictures, ascending, and the number of what each looks like.
    """
    values, value_of, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero((with_neighbours(values, RADIUS, threads) | (counts > 1))[value_of])
    if not len(suspects):
        return suspects, suspects
    with tempfile.TemporaryFile(dir=scratch) as file:
        cache = _Textures(thumbnails, shown[suspects], file)
        order = _Order(hashes[suspects], value_of[suspects], files[suspects], cache)
        order.settle(np.arange(len(suspects)))
        dropped = np.flatnonzero(order.dropped)
        return suspects[dropped], suspects[order.most_alike(dropped)]


class _Textures:
    """The textures of pictures, computed on first use and kept in a file."""

    def __init__(self, thumbnails: Rows, shown: np.ndarray, file: IO[bytes]) -> None:
        self._thumbnails, self._shown = thumbnails, shown
        self._textures = np.memmap(file, np.float32, "w+", shape=(len(shown), thumbnails.shape[1]))
        self._present = np.zeros(len(shown), dtype=bool)

    def correlations(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Correlations of the textures of i[n] and j[n], at most _PIECE of them: float32 (n,), -1 to 1."""
        rows, row_of = np.unique(i, return_inverse=True)
        columns, column_of = np.unique(j, return_inverse=True)
        left, right = self._rows(rows), self._rows(columns)
        if len(rows) * len(columns) <= 4 * len(i):
            return (left @ right.T)[row_of, column_of]
        return np.einsum("nk,nk->n", left[row_of], right[column_of])

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        missing = numbers[~self._present[numbers]]
        if len(missing):
            self._textures[missing] = textures(self._thumbnails[self._shown[missing]])
            self._present[missing] = True
        return self._textures[numbers]


class _Order:
    """Suspects in order: which stand and which are dropped, as arrays (n,) by the suspect's number."""

    def __init__(self, hashes: np.ndarray, values: np.ndarray, files: np.ndarray, cache: _Textures) -> None:
        self._hashes, self._files, self._cache = hashes, files, cache
        _, self._values = np.unique(values, return_inverse=True)
        self._standing = np.zeros(len(hashes), dtype=np.int32)  # how many stand, by hash
        self.stands = np.zeros(len(hashes), dtype=bool)
        self.dropped = np.zeros(len(hashes), dtype=bool)

    def settle(self, numbers: np.ndarray) -> None:
        """Decide on suspects that look like none of those standing so far; all before them are decided."""
        if len(numbers) <= _FEW:
            self._settle_in_order(numbers)
            return
        first, second = np.array_split(numbers, 2)
        self.settle(first)
        for i, _, _ in self._alike(second, first[self.stands[first]]):
            self.dropped[i] = True
        self.settle(second[~self.dropped[second]])

    def _settle_in_order(self, numbers: np.ndarray) -> None:
        pairs = [(i, j) for i, j, _ in self._alike(numbers, numbers)]
        later, earlier = (np.concatenate(part) for part in zip(*pairs, strict=True)) if pairs else (numbers[:0],) * 2
        order = np.argsort(later, kind="stable")
        bounds = np.searchsorted(later[order], numbers), np.searchsorted(later[order], numbers, "right")
        earlier = earlier[order]
        for number, start, stop in zip(numbers.tolist(), *(bound.tolist() for bound in bounds), strict=True):
            if start < stop and self.stands[earlier[start:stop]].any():
                self.dropped[number] = True
            elif self._standing[self._values[number]] < STANDING:
                self._standing[self._values[number]] += 1
                self.stands[number] = True

    def most_alike(self, numbers: np.ndarray) -> np.ndarray:
        """For each dropped picture of `numbers`, the number of the standing one that it looks most like."""
        best = np.full(len(self._hashes), -1.0)
        like = np.full(len(self._hashes), -1)
        for i, j, alike in self._alike(numbers, np.flatnonzero(self.stands)):
            rounded = np.round(alike.astype(np.float64), 6)  # further digits depend on the order of summation
            order = np.lexsort((j, -rounded, i))
            i, j, rounded = i[order], j[order], rounded[order]
            _, leading = np.unique(i, return_index=True)
            i, j, rounded = i[leading], j[leading], rounded[leading]
            better = (rounded > best[i]) | ((rounded == best[i]) & (j < like[i]))
            best[i[better]], like[i[better]] = rounded[better], j[better]
        return like[numbers]

    def _alike(self, later: np.ndarray, earlier: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Pairs of suspects that look alike, the later one first, and their correlation."""
        for i, j in neighbours(self._hashes[later], self._hashes[earlier], RADIUS):
            i, j = later[i], earlier[j]
            compared = (i > j) & (self._files[i] != self._files[j])
            i, j = i[compared], j[compared]
            order = np.lexsort((j, i))
            for start in range(0, len(order), _PIECE):
                piece = order[start : start + _PIECE]
                alike = self._cache.correlations(i[piece], j[piece])
                close = alike >= SIMILARITY
                yield i[piece][close], j[piece][close], alike[close]
