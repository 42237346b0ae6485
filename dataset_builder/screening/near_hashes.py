"""Finds 64-bit hashes that differ by only a few bits, without comparing all with all.

The 64 bits are cut into `radius + 1 + g` blocks, which are dealt to g groups. Two hashes within the radius agree on at
least g + 1 blocks, so on two blocks of one group. Hashes are ordered by every two blocks of a group, and compared with
those that agree on both (like Manku et al., Detecting Near-Duplicates for Web Crawling, 2007, where g is 1). With few
hashes many groups are best: a radius of 4 takes 5 orders by 12 bits, 7 by 16 or 15 by 21. As the keys are this short,
a radix sort orders them.

Measured on one core of an EPYC with random hashes and a radius of 4: `with_neighbours` takes 0.35 s of CPU for one
million and 3.1 s for four million, where numpy's sorts of the hashes under 15 masks of 21 bits alone take 0.81 s and
3.9 s; `neighbours` of half a million in another half takes 0.64 s.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations, pairwise

import numpy as np

Blocks = tuple[tuple[int, int], tuple[int, int]]  # two blocks: the first bit of each and the bit after its last
Near = tuple[np.ndarray, np.ndarray]  # numbers of hashes with a neighbour, and of those in a crowd
Spread = Callable[[Callable[[np.ndarray, Blocks], Near], np.ndarray, Sequence[Blocks]], Iterable[Near]]
"""Calls a function with all hashes and each choice of blocks, in this process or on machines: its results."""

_RUN = 256  # hashes in longer runs of equal keys are ordered again, by longer keys
_MARKED, _LISTED = 32, 8  # length of the runs that random hashes should make, to mark hashes or to list pairs
_HASHES = 2**16  # hashes at a time, which stay in a core's cache
_STEPS = 16  # comparisons of these with later ones that are looked through at once
_PIECE = 2**17  # pairs listed at a time: a large group costs time but not memory
_TABLE = 512  # up to this many hashes are compared with all others without sorting
_LEFT = 2**22  # hashes looked up at a time, for the sake of memory


def one_by_one(
    function: Callable[[np.ndarray, Blocks], Near], hashes: np.ndarray, choices: Sequence[Blocks]
) -> Iterator[Near]:
    """The plainest `Spread`."""
    return map(partial(function, hashes), choices)


def with_neighbours(hashes: np.ndarray, radius: int, spread: Spread = one_by_one) -> np.ndarray:
    """Which hashes have another within `radius` bits: bool (n,), for distinct hashes uint64 (n,).

    If over _RUN hashes agree on two of `radius + 2` blocks, the answer may include a few more; none is missing. The
    time grows with n, whatever the hashes. It takes 50 bytes a hash with one thread, 80 with two. Each choice of
    blocks is searched by itself, so `spread` may do it anywhere and in any order. At a radius of 4 there are 7 choices
    for a million hashes, 9 for four million, and 15 for 21 million, each of 4.9 s of CPU on a busy core and 0.9 GiB.
    """
    near = np.zeros(len(hashes), dtype=bool)
    undecided = np.arange(len(hashes))
    for groups in range(_groups(radius, len(hashes) / _MARKED), 0, -1):
        part, crowded = hashes[undecided], np.zeros(len(undecided), dtype=bool)
        for close, crowd in spread(partial(_near_in_order, radius), part, _choices(radius, groups)):
            near[undecided[close]] = True
            crowded[crowd] = True
        undecided = undecided[crowded]
        if not len(undecided):
            break
    near[undecided] = True
    return near


def neighbours(left: np.ndarray, right: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs (i, j) with at most `radius` differing bits between left[i] and right[j], both uint64.

    Yields:
        i and j, int64 of the same length, at most _PIECE of them; each pair once, in no order.
    """
    if len(right) <= _TABLE:
        yield from _all_compared(left, right, radius)
        return
    choices = _choices(radius, _groups(radius, len(right) / _LISTED))
    size = max(_LEFT, len(right))
    for start in range(0, len(left), size):
        for number, blocks in enumerate(choices):
            for i, j in _agreeing(left[start : start + size], right, radius, blocks, choices[:number]):
                yield i + start, j


def _groups(radius: int, keys: float) -> int:
    """The most groups of which two blocks have at least so many keys."""
    return max((g for g in range(1, radius + 2) if 128 / (radius + 1 + g) >= np.log2(max(keys, 1))), default=1)


def _choices(radius: int, groups: int) -> list[Blocks]:
    """Every two blocks of a group."""
    blocks = list(pairwise(np.linspace(0, 64, radius + 2 + groups).round().astype(int).tolist()))
    return [pair for group in range(groups) for pair in combinations(blocks[group::groups], 2)]


def _ordered(hashes: np.ndarray, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """The order of hashes by two blocks, in which equals keep theirs, and where each run of equals ends in it."""
    (low, middle), (high, top) = blocks
    keys = _bits(hashes, low, middle) | (_bits(hashes, high, top) << np.uint64(middle - low))
    order = np.argsort(keys.astype(np.uint16), kind="stable")  # of 16 bits, so that numpy sorts by radix
    for place in range(16, middle - low + top - high, 16):
        order = order[np.argsort((keys >> np.uint64(place)).astype(np.uint16)[order], kind="stable")]
    keys = keys[order]
    return order, np.append(np.flatnonzero(keys[1:] != keys[:-1]) + 1, len(keys))


def _bits(values: np.ndarray, low: int, high: int) -> np.ndarray:
    return (values >> np.uint64(low)) & np.uint64((1 << high - low) - 1)


def _near_in_order(radius: int, hashes: np.ndarray, blocks: Blocks) -> Near:
    """Numbers of hashes with another within the radius in their run, and of those in runs longer than _RUN."""
    order, ends = _ordered(hashes, blocks)
    lengths = np.diff(ends, prepend=0)
    crowded = np.repeat(lengths > _RUN, lengths)
    after = np.repeat(ends, lengths) - np.arange(1, len(order) + 1)
    after[crowded] = 0
    ordered, marks = hashes[order], np.zeros(len(order), dtype=bool)
    for start in range(0, len(order), _HASHES):
        _mark(marks, ordered, after[start : start + _HASHES], start, radius)
    return order[marks], order[crowded]


def _mark(marks: np.ndarray, ordered: np.ndarray, after: np.ndarray, start: int, radius: int) -> None:
    """Mark pairs within the radius: of each hash from `start` on, and of as many later ones as `after` says.

    All hashes are compared with as many later ones as most of them have, and then only those that have more.
    """
    own, furthest = ordered[start : start + len(after)], int(after.max())
    most = min(int(1.5 * after.mean()), furthest)
    bits, counts = np.empty(len(own), np.uint64), np.empty((min(_STEPS, most), len(own)), np.uint8)
    for first in range(1, most + 1, _STEPS):
        counts[:] = 64
        for step in range(first, min(first + _STEPS, most + 1)):
            later = ordered[start + step : start + step + len(own)]
            np.bitwise_xor(own[: len(later)], later, out=bits[: len(later)])
            np.bitwise_count(bits[: len(later)], out=counts[step - first, : len(later)])
        steps, places = np.divmod(np.flatnonzero(counts <= radius), len(own))
        marks[start + places] = marks[start + places + first + steps] = True
    longer = np.flatnonzero(after > most)
    for step in range(most + 1, furthest + 1):
        longer = longer[after[longer] >= step]
        close = start + longer[np.bitwise_count(own[longer] ^ ordered[start + longer + step]) <= radius]
        marks[close] = marks[close + step] = True


def _all_compared(left: np.ndarray, right: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rows = _PIECE // max(len(right), 1)
    for start in range(0, len(left), rows):
        i, j = np.nonzero(np.bitwise_count(left[start : start + rows, None] ^ right) <= radius)
        yield i + start, j


def _agreeing(
    left: np.ndarray, right: np.ndarray, radius: int, blocks: Blocks, before: list[Blocks]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs within the radius that agree on two blocks, but not on the two of any choice `before`."""
    both = np.concatenate([right, left])
    order, ends = _ordered(both, blocks)
    ordered, lengths = both[order], np.diff(ends, prepend=0)
    of_right = np.add.reduceat(order < len(right), ends - lengths, dtype=np.int64)  # the first ones of each run
    of_left = np.flatnonzero(order >= len(right))
    first, counts = (np.repeat(part, lengths - of_right) for part in (ends - lengths, of_right))
    of_left, first, counts = (part[counts > 0] for part in (of_left, first, counts))
    totals = np.cumsum(counts)
    for start in range(0, int(counts.sum()), _PIECE):
        stop = min(start + _PIECE, int(totals[-1]))
        first_row, last_row = np.searchsorted(totals, [start, stop - 1], "right").tolist()
        rows = slice(first_row, last_row + 1)
        repeats = np.diff(np.minimum(totals[rows], stop), prepend=start)
        row = np.repeat(of_left[rows], repeats)
        place = np.repeat((first - totals + counts)[rows], repeats) + np.arange(start, stop)
        difference = ordered[row] ^ ordered[place]
        close = np.flatnonzero(np.bitwise_count(difference) <= radius)
        for pair in before:
            apart = [_bits(difference[close], *block) != 0 for block in pair]
            close = close[apart[0] | apart[1]]
        yield order[row[close]] - len(right), order[place[close]]
