"""Finds near duplicates: pictures that look like an earlier one, without comparing all with all.

The rule goes through the pictures in order. A picture is dropped if it looks like an earlier standing one of another
file: their perceptual hashes differ by at most RADIUS bits, and the textures of their thumbnails correlate by at least
SIMILARITY. A picture that is not dropped stands, except in a crowd: if STANDING pictures of its hash stand already, or
CROWD pictures, of whatever file, whose hashes are within RADIUS of its own, it is kept, but later pictures are not
compared with it. So the first picture of a group stays, with every one that looks like none of those that stand.

As few stand near each other, each picture is compared with few, whatever the size of a crowd: with CROWD if all
hashes are within RADIUS of each other; with 1,800 on average if 200,000 are only within RADIUS of one hash.

To decide on all at once, the pictures are halved: the standing pictures of the first half are compared with the second
half, where their look-alikes are dropped and their neighbours count them. Then each half is treated in the same way,
down to pieces that are decided in order. Pairs are compared in pieces, so memory stays bounded; the textures of
suspects are in a file of 3.2 KB for each picture with a near hash: at most 3.2 GB for a million pictures.

Seconds of CPU on a core of an Intel Xeon that was shared with other work, by the pictures of one crowd:

    | pictures                                           | 2,000 | 4,000 | 8,000 | 50,000 | 200,000 |
    |----------------------------------------------------|-------|-------|-------|--------|---------|
    | all look alike                                     |   0.2 |   0.2 |   0.5 |    2.4 |      12 |
    | none does; all hashes within RADIUS of each other  |   0.3 |   0.6 |   0.8 |    3.9 |      15 |
    | none does; all hashes within RADIUS of one of them |   0.3 |   0.7 |   1.4 |     19 |      93 |

The last row has 84, 94, 110, 279 and 877 MiB in all, with thumbnails and mapped textures. A million pictures with
20,000 pairs among them take 3.9 s.

Where hashes differ in few bits, the pairs of near ones grow with the square of the pictures, until these are a crowd.
If 28 random bits differ and no pictures look alike, 10,000 take 0.4 s, 40,000 3 s, 160,000 16 s and 320,000 45 s.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from .hashing import SIMILARITY, THUMBNAIL, Rows, textures
from .near_hashes import Spread, neighbours, one_by_one, with_neighbours

RADIUS = 4  # bits by which the perceptual hashes of near duplicates may differ
STANDING = 16  # pictures of one hash with which later ones are compared
CROWD = 128  # pictures of near hashes with which later ones are compared
_FEW = 256  # up to this many pictures are compared one by one, in order
_PIECE = 2**14  # pairs looked at together, whose textures take at most 100 MB
_AT_ONCE = 64  # pairs of textures multiplied at a time, which stay in a core's cache
_FURTHEST = 2 * (1 - SIMILARITY) + 1e-4  # squared distance of the textures of look-alikes, with room for rounding


def look_alikes(
    hashes: np.ndarray,
    files: np.ndarray,
    thumbnails: Rows,
    rows: np.ndarray,
    scratch: Path | None = None,
    spread: Spread = one_by_one,
) -> tuple[np.ndarray, np.ndarray]:
    """The dropped pictures, and the standing picture that each looks most like (of equals the earliest).

    Args:
        hashes: uint64 (n,), in the order in which pictures are preferred.
        files: (n,), equal for pictures of one file, which are never compared.
        thumbnails: uint8 (m, 784); only those of suspects are read.
        rows: int64 (n,), the row of each picture's thumbnail.
        scratch: a folder for temporary files of up to 3.2 KB for each suspect; by default the system's.
        spread: where suspects are looked for.

    Returns:
        Two int64 arrays of the same length: numbers of pictures, ascending, and the number of what each looks like.
    """
    values, value_of, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero((with_neighbours(values, RADIUS, spread) | (counts > 1))[value_of])
    if not len(suspects):
        return suspects, suspects
    with tempfile.TemporaryFile(dir=scratch) as file:
        cache = _Textures(thumbnails, rows[suspects], file)
        order = _Order(hashes[suspects], value_of[suspects], files[suspects], cache)
        order.settle(np.arange(len(suspects)))
        dropped = np.flatnonzero(order.dropped)
        return suspects[dropped], suspects[order.most_alike(dropped)]


class _Textures:
    """The textures of pictures, computed on first use and kept in a file, each with a short sketch.

    A sketch is an orthogonal projection: for each row of the thumbnail, the sum of its texture under random signs. So
    the sketches of two look-alikes are at most as far apart as their textures, and most other pairs need no more.
    """

    def __init__(self, thumbnails: Rows, rows: np.ndarray, file: IO[bytes]) -> None:
        self._thumbnails, self._rows = thumbnails, rows
        self._textures = np.memmap(file, np.float32, "w+", shape=(len(rows), THUMBNAIL**2))
        end = self._textures.nbytes
        self._sketches = np.memmap(file, np.float32, "w+", offset=end, shape=(len(rows), THUMBNAIL))
        signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (THUMBNAIL, THUMBNAIL))
        self._signs = signs / np.sqrt(THUMBNAIL, dtype=np.float32)
        self._present = np.zeros(len(rows), dtype=bool)

    def alike(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of the pairs (i, j) that look alike, and the correlations of their textures, float32."""
        self._prepare(i)
        self._prepare(j)
        apart = self._sketches[i] - self._sketches[j]
        places = np.flatnonzero(np.einsum("nk,nk->n", apart, apart) <= _FURTHEST)
        correlations = np.empty(len(places), np.float32)
        for start in range(0, len(places), _AT_ONCE):
            part = places[start : start + _AT_ONCE]
            left, right = self._textures[i[part]], self._textures[j[part]]
            correlations[start : start + _AT_ONCE] = np.einsum("nk,nk->n", left, right)
        close = correlations >= SIMILARITY
        return places[close], correlations[close]

    def _prepare(self, numbers: np.ndarray) -> None:
        missing = np.unique(numbers[~self._present[numbers]])
        if len(missing):
            computed = textures(self._thumbnails[self._rows[missing]])
            self._textures[missing] = computed
            self._sketches[missing] = np.einsum("nrc,rc->nr", computed.reshape(-1, *self._signs.shape), self._signs)
            self._present[missing] = True


class _Order:
    """Suspects in order: which stand and which are dropped, as arrays (n,) by the suspect's number."""

    def __init__(self, hashes: np.ndarray, values: np.ndarray, files: np.ndarray, cache: _Textures) -> None:
        self._hashes, self._files, self._cache = hashes, files, cache
        _, self._values = np.unique(values, return_inverse=True)
        self._equal = np.zeros(len(hashes), dtype=np.int32)  # how many stand, by hash
        self._near = np.zeros(len(hashes), dtype=np.int32)  # how many earlier ones stand within RADIUS
        self.stands = np.zeros(len(hashes), dtype=bool)
        self.dropped = np.zeros(len(hashes), dtype=bool)

    def settle(self, numbers: np.ndarray) -> None:
        """Decide on suspects that look like none of those standing so far; all before them are decided."""
        if not self._may_stand(numbers).any():
            return
        if len(numbers) <= _FEW:
            self._settle_in_order(numbers)
            return
        first, second = np.array_split(numbers, 2)
        self.settle(first)
        for i, j in self._pairs(second, first[self.stands[first]]):
            later, counts = np.unique(i, return_counts=True)
            self._near[later] += counts
            for alike, _ in self._alike(i, j):
                self.dropped[i[alike]] = True
        self.settle(second[~self.dropped[second]])

    def _may_stand(self, numbers: np.ndarray) -> np.ndarray:
        """Whether so few stand near each suspect that it would stand too."""
        return (self._equal[self._values[numbers]] < STANDING) & (self._near[numbers] < CROWD)

    def _settle_in_order(self, numbers: np.ndarray) -> None:
        pairs = self._pairs(numbers, numbers[self._may_stand(numbers)])
        i, j = (np.concatenate(part) for part in zip(*pairs, strict=True))
        order = np.argsort(i, kind="stable")
        i, j = i[order], j[order]
        alike = np.zeros(len(i), dtype=bool)
        for places, _ in self._alike(i, j):
            alike[places] = True
        bounds = np.searchsorted(i, numbers), np.searchsorted(i, numbers, "right")
        for number, start, stop in zip(numbers, *(bound.tolist() for bound in bounds), strict=True):
            if start < stop:
                standing = self.stands[j[start:stop]]
                self._near[number] += np.count_nonzero(standing)
                self.dropped[number] = (standing & alike[start:stop]).any()
            if not self.dropped[number] and self._may_stand(number):
                self._equal[self._values[number]] += 1
                self.stands[number] = True

    def most_alike(self, numbers: np.ndarray) -> np.ndarray:
        """For each dropped picture of `numbers`, the number of the standing one that it looks most like."""
        best = np.full(len(self._hashes), -1.0)
        like = np.full(len(self._hashes), -1)
        for later, earlier in self._pairs(numbers, np.flatnonzero(self.stands)):
            for places, correlations in self._alike(later, earlier):
                i, j = later[places], earlier[places]
                # further digits depend on the order of summation
                rounded = np.round(correlations.astype(np.float64), 6)
                order = np.lexsort((j, -rounded, i))
                i, j, rounded = i[order], j[order], rounded[order]
                _, leading = np.unique(i, return_index=True)
                i, j, rounded = i[leading], j[leading], rounded[leading]
                better = (rounded > best[i]) | ((rounded == best[i]) & (j < like[i]))
                best[i[better]], like[i[better]] = rounded[better], j[better]
        return like[numbers]

    def _pairs(self, later: np.ndarray, earlier: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of suspects with near hashes, the later one first."""
        for i, j in neighbours(self._hashes[later], self._hashes[earlier], RADIUS):
            i, j = later[i], earlier[j]
            ordered = i > j
            yield i[ordered], j[ordered]

    def _alike(self, i: np.ndarray, j: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places of the pairs (i, j) that are of different files and look alike, and their correlations."""
        places = np.flatnonzero(self._files[i] != self._files[j])
        for start in range(0, len(places), _PIECE):
            piece = places[start : start + _PIECE]
            alike, correlations = self._cache.alike(i[piece], j[piece])
            yield piece[alike], correlations
