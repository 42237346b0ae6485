"""Finds 64-bit hashes that differ by only a few bits, without comparing all with all.

The 64 bits are cut into `radius + 1 + g` blocks, which are dealt to g groups. Two hashes within the radius agree on at
least g + 1 blocks, so on two blocks of one group. Hashes are ordered by every two blocks of a group, and compared with
those that agree on both (like Manku et al., Detecting Near-Duplicates for Web Crawling, 2007, where g is 1). With few
hashes many groups are best: a radius of 4 takes 5 orders by 12 bits, 7 by 16 or 15 by 21. As the keys are this short,
a radix sort orders them.

Perceptual hashes are not random: pictures of one kind share their low frequencies. So the bits are dealt to the blocks
first, and as many are taken for a key as if there were only as many bits as hashes differ in. Where still many agree
on a key, they are ordered again by their other bits in the same way, unless most of them are near each other anyway.

Seconds of CPU on a core of an AMD EPYC that was shared with other work, with a radius of 4. With random hashes
`with_neighbours` takes 0.3 for a million and 2.2 for four million; `neighbours` of half a million in another half
takes 0.4. Of a million hashes with 20 equal bits `with_neighbours` takes 1.2, with 32 equal bits 6.5, since most of
these have many neighbours. If only 28 bits differ, the number of pairs grows with the square of the hashes:
`neighbours` of 40,000 in as many lists 144,000 in 0.1, of 160,000 in as many 2.3 million in 1.1.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from itertools import chain, combinations, pairwise

import numpy as np

Near = tuple[np.ndarray, np.ndarray]  # numbers of hashes with a neighbour, and of those to be ordered by other bits
Pairs = Iterator[tuple[np.ndarray, np.ndarray]]
Spread = Callable[[Callable[[np.ndarray, int], Near], np.ndarray, Sequence[int]], Iterable[Near]]
"""Calls a function with all hashes and each choice of bits, in this process or on machines: its results."""

_RUN = 256  # hashes in longer runs of equal keys are ordered again, by more bits
_LAST = 4  # times as long runs are compared before other bits of them are ordered
_MARKED, _LISTED = 32, 8  # length of the runs that random hashes should make, to mark hashes or to list pairs
_HASHES = 2**16  # hashes at a time, which stay in a core's cache
_STEPS = 16  # comparisons of these with later ones that are looked through at once
_PIECE = 2**17  # pairs listed at a time: a large group costs time but not memory
_TABLE = 512  # up to this many hashes are compared with all others without sorting
_LEFT = 2**22  # hashes looked up at a time, for the sake of memory
_SAMPLE = 64  # pairs of a long run that tell whether most of it would be listed
_MANY = 2**11  # pairs from which on a run is compared by itself
_DENSE = 1 / 16  # share of near pairs from which on more bits would not tell the pairs of a run apart
_DRAWN = 4096  # pairs drawn to estimate how many bits tell hashes apart
_BITS = 64


def one_by_one(
    function: Callable[[np.ndarray, int], Near], hashes: np.ndarray, choices: Sequence[int]
) -> Iterator[Near]:
    """The plainest `Spread`."""
    return map(partial(function, hashes), choices)


def with_neighbours(hashes: np.ndarray, radius: int, spread: Spread = one_by_one) -> np.ndarray:
    """Which hashes have another within `radius` bits: bool (n,), for distinct hashes uint64 (n,).

    One thread takes about 60 bytes for each random hash, and up to 190 where hashes share bits. Each choice of blocks
    is searched by itself, so `spread` may do it anywhere and in any order. At a radius of 4 there are 7 choices for a
    million random hashes, 9 for four million, and 15 for 21 million.
    """
    hashes = _scattered(hashes)
    near = np.zeros(len(hashes), dtype=bool)
    if len(hashes) < 2:
        return near
    undecided = np.arange(len(hashes))
    for groups in range(_groups(radius, len(hashes) / _MARKED, _telling(hashes, hashes)), 0, -1):
        part, crowded = hashes[undecided], np.zeros(len(undecided), dtype=bool)
        masks = [mask for mask, _ in _choices(radius, groups, 0)]
        for close, crowd in spread(partial(_near_in_order, radius, groups == 1), part, masks):
            near[undecided[close]] = True
            crowded[crowd] = True
        undecided = undecided[crowded]
        if near[undecided].all():
            break
    return near


def neighbours(left: np.ndarray, right: np.ndarray, radius: int) -> Pairs:
    """All pairs (i, j) with at most `radius` differing bits between left[i] and right[j], both uint64.

    Yields:
        i and j, int64 of the same length, at most _PIECE of them; each pair once, in no order.
    """
    if len(right) <= _TABLE:
        yield from _all_compared(left, right, radius)
        return
    right = _scattered(right)
    size = max(_LEFT, len(right))
    for start in range(0, len(left), size):
        part = _scattered(left[start : start + size])
        groups = _groups(radius, len(right) / _LISTED, _telling(part, right))
        for i, j in _search(part, right, radius, groups, 0, []):
            yield i + start, j


def _scattered(hashes: np.ndarray) -> np.ndarray:
    """Hashes with their bits in another order, so that every block has bits of low and of high frequencies.

    A bit moves to the place whose number has its number's six binary digits backwards: three pairs of digits swap.
    """
    scattered = hashes.copy()
    for start in range(0, len(hashes), _HASHES):
        part = scattered[start : start + _HASHES]
        for low, high in ((1, 32), (2, 16), (4, 8)):
            mask = np.uint64(sum(1 << bit for bit in range(_BITS) if bit & low and not bit & high))
            step = np.uint64(high - low)
            moved = ((part >> step) ^ part) & mask
            part ^= moved ^ (moved << step)
    return scattered


def _groups(radius: int, keys: float, bits: float) -> int:
    """The most groups of which two blocks have at least so many keys, for hashes of so many bits."""
    needed = np.log2(max(keys, 4))  # so that each block has a bit
    return max((g for g in range(1, radius + 2) if 2 * bits / (radius + 1 + g) >= needed), default=1)


def _choices(radius: int, groups: int, agreed: int) -> list[tuple[int, list[int]]]:
    """Every two blocks of a group of the bits that are not `agreed`, together with these: masks.

    With each come the masks that tell whether a pair that agrees on it agrees on an earlier one: on all bits of any.
    """
    bits = [1 << bit for bit in range(_BITS) if not agreed >> bit & 1]
    bounds = np.linspace(0, len(bits), radius + 2 + groups).round().astype(int).tolist()
    blocks = [sum(bits[low:high]) for low, high in pairwise(bounds)]
    choices, done = [], list[int]()
    for members in (blocks[group::groups] for group in range(groups)):
        for one, two in combinations(range(len(members)), 2):
            others = [members[block] for block in range(two) if block != one]
            choices.append((agreed | members[one] | members[two], [*done, *others]))
        done += [one | two for one, two in combinations(members, 2)]
    return choices


def _ordered(hashes: np.ndarray, mask: int) -> tuple[np.ndarray, np.ndarray]:
    """The order of hashes by some bits, in which equals keep theirs, and where each run of equals ends in it."""
    parts, place = [], 0
    for block in re.finditer("1+", f"{mask:b}"[::-1]):
        width = block.end() - block.start()
        part = (hashes >> np.uint64(block.start())) & np.uint64((1 << width) - 1)
        parts.append(part << np.uint64(place))
        place += width
    keys = reduce(np.bitwise_or, parts).astype(np.min_scalar_type((1 << place) - 1))
    order = np.argsort(keys.astype(np.uint16), kind="stable")  # of 16 bits, so that numpy sorts by radix
    for digit in range(16, place, 16):
        order = order[np.argsort((keys >> digit).astype(np.uint16)[order], kind="stable")]
    keys = keys[order]
    return order, np.append(np.flatnonzero(keys[1:] != keys[:-1]) + 1, len(keys))


def _near_in_order(radius: int, last: bool, hashes: np.ndarray, mask: int) -> Near:
    """Numbers of hashes with another within the radius in their run, and of those in long runs.

    In long runs only the next few are compared, as in most crowds these are near. In the `last` order, the others are
    then searched by more bits.
    """
    order, ends = _ordered(hashes, mask)
    lengths = np.diff(ends, prepend=0)
    most = _LAST * _RUN if last else _RUN
    long = lengths > most
    after = np.repeat(ends, lengths) - np.arange(1, len(order) + 1)
    if long.any():
        after = np.minimum(after, np.repeat(np.where(long, _MARKED, most), lengths))
    ordered, marks = hashes[order], np.zeros(len(order), dtype=bool)
    for start in range(0, len(order), _HASHES):
        _mark(marks, ordered, after[start : start + _HASHES], start, radius)
    if long.any():
        long &= ~np.logical_and.reduceat(marks, ends - lengths)
    crowded = np.flatnonzero(np.repeat(long, lengths))
    if last and len(crowded):
        unmarked = crowded[~marks[crowded]]
        for i, j in _agreeing(ordered[unmarked], ordered[crowded], radius, mask, []):
            others = unmarked[i] != crowded[j]
            marks[unmarked[i[others]]] = marks[crowded[j[others]]] = True
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


def _all_compared(left: np.ndarray, right: np.ndarray, radius: int) -> Pairs:
    columns = max(1, min(len(right), _PIECE))
    rows = _PIECE // columns
    for start in range(0, len(left), rows):
        for first in range(0, len(right), columns):
            part = right[first : first + columns]
            distances = np.bitwise_count(left[start : start + rows, None] ^ part)
            i, j = np.divmod(np.flatnonzero(distances <= radius), len(part))
            yield i + start, j + first


def _search(
    left: np.ndarray, right: np.ndarray, radius: int, groups: int, agreed: int, before: Sequence[int]
) -> Pairs:
    """The pairs within the radius that agree on the bits `agreed`, but not on those of any choice `before`."""
    for mask, earlier in _choices(radius, groups, agreed):
        yield from _agreeing(left, right, radius, mask, [*before, *earlier])


def _agreeing(left: np.ndarray, right: np.ndarray, radius: int, mask: int, before: Sequence[int]) -> Pairs:
    """The pairs within the radius that agree on the bits of a mask, but not on those of any choice `before`.

    Runs with many pairs are searched by more bits, unless so many pairs are near that this would not help.
    """
    both = np.concatenate([right, left])
    order, ends = _ordered(both, mask)
    ordered, starts = both[order], np.append(0, ends[:-1])
    middles = starts + np.add.reduceat(order < len(right), starts, dtype=np.int64)  # where those of `left` begin
    runs = np.stack([starts, middles, ends])
    counts = (middles - starts) * (ends - middles)
    large, rest = np.flatnonzero(counts > _LAST * _RUN * (ends - starts)), _BITS - mask.bit_count()
    if len(large) and rest >= radius + 2:
        distances = _distances(ordered, runs[:, large])
        apart = (distances <= radius).mean(axis=0) < _DENSE
        if apart.any():
            again = large[apart]
            counts[again] = 0
            numbers = order[_members(starts[again], ends[again])]
            i, j = numbers[numbers >= len(right)] - len(right), numbers[numbers < len(right)]
            longest = int((middles - starts)[again].max())
            groups = _groups(radius, longest / _LISTED, min(2 * distances[:, apart].mean(), rest))
            for k, m in _search(left[i], right[j], radius, groups, mask, before):
                yield i[k], j[m]
    few, many = runs[:, (counts > 0) & (counts <= _MANY)], runs[:, counts > _MANY]
    for row, place in chain(_of_short(ordered, few, radius), _of_long(ordered, many, radius)):
        difference = ordered[row] ^ ordered[place]
        new = np.ones(len(row), dtype=bool)
        for bits in before:
            new &= difference & np.uint64(bits) != 0
        yield order[row[new]] - len(right), order[place[new]]


def _members(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """All places of some runs."""
    lengths = ends - starts
    return np.repeat(ends - np.cumsum(lengths), lengths) + np.arange(int(lengths.sum()))


def _telling(left: np.ndarray, right: np.ndarray) -> float:
    """How many random bits would make hashes differ as much as these do: twice the mean distance of some pairs."""
    draw = np.random.default_rng(0)
    i, j = (draw.integers(0, len(side), _DRAWN) for side in (left, right))
    return min(2 * float(np.bitwise_count(left[i] ^ right[j]).mean()), _BITS)


def _distances(ordered: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Distances of _SAMPLE random pairs of each run, (_SAMPLE, runs)."""
    starts, middles, ends = runs
    first, second = np.random.default_rng(0).random((2, _SAMPLE, len(starts)))
    right = ordered[starts + (first * (middles - starts)).astype(np.int64)]
    left = ordered[middles + (second * (ends - middles)).astype(np.int64)]
    return np.bitwise_count(left ^ right)


def _of_long(ordered: np.ndarray, runs: np.ndarray, radius: int) -> Pairs:
    """The pairs of long runs within the radius, one run after the other."""
    for start, middle, end in runs.T.tolist():
        for i, j in _all_compared(ordered[middle:end], ordered[start:middle], radius):
            yield middle + i, start + j


def _of_short(ordered: np.ndarray, runs: np.ndarray, radius: int) -> Pairs:
    """The pairs of short runs within the radius: each hash of `left` with the first of its run, with the second ..."""
    starts, middles, ends = runs
    rows = _members(middles, ends)
    first, counts = (np.repeat(part, ends - middles) for part in (starts, middles - starts))
    order = np.argsort(-counts, kind="stable")
    rows, first, counts = rows[order], first[order], counts[order]
    begin = 0
    while begin < len(rows):
        part = slice(begin, begin + max(1, _PIECE // int(counts[begin])))
        yield _compared_in_steps(ordered, rows[part], first[part], counts[part], radius)
        begin = part.stop


def _compared_in_steps(
    ordered: np.ndarray, rows: np.ndarray, first: np.ndarray, counts: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of each row with the `counts` places from `first` on; `counts` descend."""
    own = ordered[rows]
    lengths = np.searchsorted(-counts, -np.arange(int(counts[0])), "left").tolist()
    close = [
        np.flatnonzero(np.bitwise_count(own[:length] ^ ordered[first[:length] + step]) <= radius)
        for step, length in enumerate(lengths)
    ]
    places = np.concatenate(close)
    return rows[places], first[places] + np.repeat(np.arange(len(close)), [len(part) for part in close])
