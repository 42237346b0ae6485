"""The look-up of near hashes against a comparison of all with all."""

from functools import partial
from itertools import pairwise
from time import process_time
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builder.screening import near_hashes
from dataset_builder.screening.near_hashes import neighbours, with_neighbours
from dataset_builder.shards.executors import ENGINES, Resources


def hashes_near_others(rng: np.random.Generator, count: int, crowds: int) -> np.ndarray:
    """Random hashes, most of them a few bits from one of `crowds` others."""
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    for n in range(crowds, count):
        if n % 5:
            flips = rng.choice(64, n % 14, replace=False)
            hashes[n] = hashes[n % crowds] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    return hashes


def in_a_subcube(rng: np.random.Generator, count: int, bits: int, lowest: int = 0) -> np.ndarray:
    """Hashes that differ in a few bits only: in any places, or in `lowest` and those above."""
    places = lowest + np.arange(bits) if lowest else rng.choice(64, bits, replace=False)
    return rng.integers(0, 2**64, dtype=np.uint64) ^ sum(
        rng.integers(0, 2, count, dtype=np.uint64) << np.uint64(place) for place in places
    )


SKEWED = {
    "around centres": lambda rng, count: hashes_near_others(rng, count, min(4, count)),
    "equal leading bits": lambda rng, count: rng.integers(0, 2**20, count, dtype=np.uint64),
    "many varying bits": lambda rng, count: in_a_subcube(rng, count, 20),
    "few varying bits": lambda rng, count: in_a_subcube(rng, count, 12),
    "varying bits in one place": lambda rng, count: in_a_subcube(rng, count, 12, 26),
    "each bit four times": lambda rng, count: rng.integers(0, 2**16, count, np.uint64) * np.uint64(0x1000100010001),
    "all equal": lambda rng, count: np.full(count, 5, np.uint64),
}  # fmt: skip


def listed(left: np.ndarray, right: np.ndarray, radius: int) -> list[tuple[int, int]]:
    return sorted(
        (a, b) for i, j in neighbours(left, right, radius) for a, b in zip(i.tolist(), j.tolist(), strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(sorted(SKEWED)),
    st.integers(0, 90),
    st.integers(0, 90),
    st.integers(0, 6),
    st.sampled_from([0, 512]),
    st.sampled_from([7, 2**20]),
    st.sampled_from([(2, 9), (9, 2**13), (256, 2**13)]),
)
def test_neighbours_are_those_of_a_full_comparison_each_once(seed, skew, n, m, radius, table, piece, bounds):
    hashes = SKEWED[skew](np.random.default_rng(seed), n + m)
    left, right = hashes[:n], hashes[n:]
    full = np.argwhere(np.bitwise_count(left[:, None] ^ right[None]) <= radius)
    with patch.multiple(near_hashes, _TABLE=table, _PIECE=piece, _RUN=bounds[0], _MANY=bounds[1]):
        assert listed(left, right, radius) == [tuple(pair) for pair in full.tolist()]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(sorted(SKEWED)),
    st.integers(0, 200),
    st.integers(0, 6),
    st.sampled_from([(2, 2), (9, 1), (256, 32)]),
)
def test_hashes_with_neighbours_are_those_of_a_full_comparison(seed, skew, count, radius, bounds):
    hashes = np.unique(SKEWED[skew](np.random.default_rng(seed), count))
    full = (np.bitwise_count(hashes[:, None] ^ hashes[None]) <= radius).sum(axis=1) > 1
    in_threads = partial(ENGINES["local"].spread, Resources(seed % 3))
    with patch.multiple(near_hashes, _RUN=bounds[0], _MARKED=bounds[1]):
        assert (with_neighbours(hashes, radius, in_threads) == full).all()


def test_neighbours_of_many_equal_hashes_come_in_blocks():
    crowd = np.zeros(3000, np.uint64)
    blocks = [len(i) for i, _ in neighbours(crowd, crowd[:1000], 3)]
    assert sum(blocks) == 3000 * 1000
    assert max(blocks) <= 2**17


@pytest.mark.parametrize("crowd", [0, 50_000])
def test_marking_takes_the_time_of_sorting(crowd):
    """Twice the hashes cost about twice the time, whether strangers or a crowd."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 200_000, dtype=np.uint64)
    hashes[:crowd] = (hashes[0] & ~np.uint64(0xFFFF)) + np.arange(crowd, dtype=np.uint64)
    hashes = np.unique(hashes)
    seconds = []
    for part in (hashes[::4], hashes):
        started = process_time()
        with_neighbours(part, 4)
        seconds.append(process_time() - started)
    assert all(later < 12 * earlier + 0.5 for earlier, later in pairwise(seconds))
