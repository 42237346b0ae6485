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


def listed(left: np.ndarray, right: np.ndarray, radius: int) -> list[tuple[int, int]]:
    return sorted(
        (a, b) for i, j in neighbours(left, right, radius) for a, b in zip(i.tolist(), j.tolist(), strict=True)
    )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 10),
    st.sampled_from([0, 512]),
    st.sampled_from([7, 2**20]),
)
def test_neighbours_are_those_of_a_full_comparison_each_once(seed, n, m, radius, table, piece):
    hashes = hashes_near_others(np.random.default_rng(seed), n + m, 3)
    left, right = hashes[:n], hashes[n:]
    full = np.argwhere(np.bitwise_count(left[:, None] ^ right[None]) <= radius)
    with patch.object(near_hashes, "_TABLE", table), patch.object(near_hashes, "_PIECE", max(piece, m)):
        assert listed(left, right, radius) == [tuple(pair) for pair in full.tolist()]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 120), st.integers(0, 8), st.sampled_from([2, 256]))
def test_no_hash_with_a_neighbour_is_missed(seed, count, radius, run):
    hashes = np.unique(hashes_near_others(np.random.default_rng(seed), count, 4)) if count > 4 else np.arange(count)
    hashes = hashes.astype(np.uint64)
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    exact = (distances <= radius).sum(axis=1) > 1
    in_threads = partial(ENGINES["local"].spread, Resources(run % 3))
    with patch.object(near_hashes, "_RUN", run):
        marked = with_neighbours(hashes, radius, in_threads)
    assert (marked | ~exact).all()
    if run >= len(hashes):
        assert (marked == exact).all()


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
