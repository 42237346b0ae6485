"""Finds near duplicates: pictures that look like an earlier one, without comparing all with all.

The rule goes through the pictures in order. A picture is compared with the first CROWD standing ones, of whatever
file, whose perceptual hashes differ from its own by at most RADIUS bits. It is dropped if it looks like one of these
that is of another file: the textures of their thumbnails correlate by at least SIMILARITY. A picture that is not
dropped stands, except in a crowd: if STANDING pictures of its hash stand already, or CROWD whose hashes are within
RADIUS of its own, it is kept, but later pictures are not compared with it. So the first picture of a group stays, with
every one that looks like none of those with which it is compared. Those of its own hash are always among these.

To decide on all at once, all pairs of near hashes are listed. Where there is no room for so many, the pictures are
halved: the first half is decided, the second half is compared with those of the first that stand, a part of these at a
time, and then the second half is decided. So the time of a crowd is in proportion to its size, and memory is bounded;
the textures of suspects are in a file of 3.2 KB for each picture with a near hash: at most 3.2 GB for a million
pictures.

Seconds of CPU on a core of an AMD EPYC that was shared with other work, by the pictures of one crowd:

    | pictures                                           | 2,000 | 8,000 | 50,000 | 200,000 |
    |----------------------------------------------------|-------|-------|--------|---------|
    | all look alike                                     |   0.3 |   0.3 |    0.9 |     2.9 |
    | none does; all hashes within RADIUS of each other  |   0.2 |   0.4 |    1.7 |     5.1 |
    | none does; all hashes within RADIUS of one of them |   0.1 |   0.3 |    2.1 |     7.4 |

The last row has 89, 122, 366 and 1,009 MiB in all, with thumbnails and mapped textures.

Where hashes differ in few bits, the pairs of near ones grow with the square of the pictures, until these are a crowd.
If 28 random bits differ and no pictures look alike, 10,000 take 0.1 s, 40,000 0.9 s, 160,000 4.4 s and 320,000 13 s:
11 to 40 us each, as each is compared with 0.5 to 15 others, and never with more than CROWD. To measure
again, run `python tests/benchmarks/crowds.py`.
"""

import tempfile
from pathlib import Path
from typing import IO

import numpy as np

from .hashing import SIMILARITY, THUMBNAIL, Rows, textures
from .near_hashes import Spread, neighbours, one_by_one, with_neighbours

RADIUS = 4  # bits by which the perceptual hashes of near duplicates may differ
STANDING = 16  # pictures of one hash with which later ones are compared
CROWD = 128  # pictures of near hashes with which later ones are compared
_LISTED = 2**24  # pairs of near hashes in memory, unless there are more pictures: 0.5 GB
_DRAWN = 4096  # pairs drawn to estimate whether there is room for all near ones
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
    dropped = np.flatnonzero(order.like >= 0)
    return suspects[dropped], suspects[order.like[dropped]]


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
    """Suspects in order: arrays (n,) by the suspect's number.

    Attributes:
        stands: whether later ones are compared with it.
        like: the standing one that it looks most like, or -1 if it is not dropped.
    """

    def __init__(self, hashes: np.ndarray, values: np.ndarray, files: np.ndarray, cache: _Textures) -> None:
        self._hashes, self._files, self._cache = hashes, files, cache
        _, self._values = np.unique(values, return_inverse=True)
        self._equal = np.zeros(len(hashes), dtype=np.int32)  # how many stand, by hash
        self._near = np.zeros(len(hashes), dtype=np.int32)  # with how many each was compared
        self._best = np.full(len(hashes), -1.0)  # its correlation with `like`
        self.stands = np.zeros(len(hashes), dtype=bool)
        self.like = np.full(len(hashes), -1)

    def settle(self, numbers: np.ndarray) -> None:
        """Decide on suspects that were compared with all that stand before them."""
        later = numbers[self._near[numbers] < CROWD]
        earlier = later[(self._equal[self._values[later]] < STANDING) & (self.like[later] < 0)]
        if not len(earlier):
            return
        pairs = self._pairs(later, earlier)
        if pairs is not None:
            self._decide(earlier, *pairs)
            return
        first, second = np.array_split(later, 2)
        self.settle(first)
        self._compare(second, first[self.stands[first]])
        self.settle(second)

    def _compare(self, later: np.ndarray, earlier: np.ndarray) -> None:
        """Compare suspects with some that stand, as many at a time as there is room for their pairs."""
        start, size = 0, len(earlier)
        while start < len(earlier) and len(later):
            pairs = self._pairs(later, earlier[start : start + size])
            if pairs is None:
                size = -(-size // 2)
                continue
            i, j = pairs
            near = self._in_turn(i) < CROWD
            i, j = i[near], j[near]
            self._note(i, j, self._correlations(i, j))
            later = later[self._near[later] < CROWD]
            start += size
            if 4 * len(near) < self._most(later):
                size *= 2

    def _decide(self, numbers: np.ndarray, i: np.ndarray, j: np.ndarray) -> None:
        """Decide which of `numbers` stand, by all pairs of a later and an earlier one, the later one first."""
        correlations, equal = self._correlations(i, j), self._values[i] == self._values[j]
        starts, ends = np.searchsorted(i, numbers), np.searchsorted(i, numbers, "right")
        alike, same = (np.append(0, np.cumsum(part)) for part in (correlations > 0, equal))
        # with so few near, most stand whichever of these do
        free = (alike[starts] == alike[ends]) & (self._near[numbers] + ends - starts < CROWD)
        free &= self._equal[self._values[numbers]] + same[ends] - same[starts] < STANDING
        self.stands[numbers[free]] = True
        for number, start, end in zip(*(part[~free].tolist() for part in (numbers, starts, ends)), strict=True):
            standing = start + np.flatnonzero(self.stands[j[start:end]])
            self.stands[number] = (
                self._near[number] + len(standing) < CROWD
                and self._equal[self._values[number]] + np.count_nonzero(equal[standing]) < STANDING
                and not (correlations[standing] > 0).any()
            )
        np.add.at(self._equal, self._values[numbers[self.stands[numbers]]], 1)
        standing = np.flatnonzero(self.stands[j])
        near = standing[self._in_turn(i[standing]) < CROWD]
        self._note(i[near], j[near], correlations[near])

    def _in_turn(self, i: np.ndarray) -> np.ndarray:
        """With how many the suspects i, ascending, were compared before each of these pairs."""
        starts, lengths = _runs(i)
        return self._near[i] + np.arange(len(i)) - np.repeat(starts, lengths)

    def _note(self, i: np.ndarray, j: np.ndarray, correlations: np.ndarray) -> None:
        """Note that suspects i were compared with standing ones j, which come after all that were noted before."""
        starts, lengths = _runs(i)
        self._near[i[starts]] += lengths.astype(np.int32)
        alike = np.flatnonzero(correlations > 0)
        # further digits depend on the order of summation
        i, j, rounded = i[alike], j[alike], np.round(correlations[alike].astype(np.float64), 6)
        order = np.lexsort((j, -rounded, i))
        i, j, rounded = i[order], j[order], rounded[order]
        leading, _ = _runs(i)
        better = leading[rounded[leading] > self._best[i[leading]]]
        self._best[i[better]], self.like[i[better]] = rounded[better], j[better]

    def _most(self, later: np.ndarray) -> int:
        """How many pairs of these suspects with earlier ones are listed at a time."""
        return max(len(later), min(CROWD * len(later), _LISTED))

    def _pairs(self, later: np.ndarray, earlier: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Pairs of a later suspect and an earlier one with near hashes, in order; None if there are too many."""
        most, blocks = self._most(later), [np.empty(0, np.int64)]
        draw = np.random.default_rng(0)
        i, j = draw.choice(later, _DRAWN), draw.choice(earlier, _DRAWN)
        share = ((np.bitwise_count(self._hashes[i] ^ self._hashes[j]) <= RADIUS) & (i > j)).mean()
        if share * len(later) * len(earlier) > 4 * most:
            return None
        for i, j in neighbours(self._hashes[later], self._hashes[earlier], RADIUS):
            i, j = later[i], earlier[j]
            ordered = i > j
            blocks.append(i[ordered] << 32 | j[ordered])
            most -= len(blocks[-1])
            if most < 0:
                return None
        pairs = np.sort(np.concatenate(blocks))
        return pairs >> 32, pairs & (2**32 - 1)

    def _correlations(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """The correlations of pairs of different files that look alike; 0 for others."""
        correlations = np.zeros(len(i), np.float32)
        places = np.flatnonzero(self._files[i] != self._files[j])
        for start in range(0, len(places), _PIECE):
            piece = places[start : start + _PIECE]
            alike, values = self._cache.alike(i[piece], j[piece])
            correlations[piece[alike]] = values
        return correlations


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equals begins, and how long it is."""
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    return starts, np.diff(starts, append=len(values))
