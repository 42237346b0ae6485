"""The order of weighted streams: the requested shares, and a local order."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.stream_order import WeightedStreamOrder


def order(
    sizes: list[int], weights: list[float], seed: int = 0, images: int = 10
) -> tuple[WeightedStreamOrder, list[np.ndarray]]:
    """Strata of these `sizes` in row groups, each row group of so many `images`."""
    total = images * sum(sizes)
    starts = np.arange(0, total + 1, images)
    bounds = np.cumsum([0, *sizes]) * images
    members = [np.arange(low, high) for low, high in pairwise(bounds)]
    return WeightedStreamOrder(members, weights, starts, seed, batch=16, lanes=8), members


@given(st.lists(st.floats(0.01, 9), min_size=2, max_size=5), st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_groups_have_their_shares_and_every_image_its_turn(weights: list[float], seed: int) -> None:
    drawn_from, members = order([3, 5, 2, 4, 6][: len(weights)], weights, seed, images=60)  # few epochs are quick
    cycle = 1024 * 64
    drawn = drawn_from.indices(np.arange(cycle))
    shares = np.array(weights) / sum(weights)
    for rows, share in zip(members, shares, strict=True):
        counts = np.bincount(drawn, minlength=members[-1][-1] + 1)[rows]
        assert abs(counts.sum() - share * cycle) <= 1
        assert counts.max() - counts.min() <= 1 + counts.mean() * 0.1


def test_positions_are_independent_of_how_they_are_asked_for() -> None:
    drawn_from, _ = order([4, 9, 1], [1.0, 2.0, 0.5])
    whole = drawn_from.indices(np.arange(3000))
    parts = [drawn_from.indices(np.arange(first, first + 50)) for first in range(0, 3000, 50)]
    assert np.array_equal(whole, np.concatenate(parts))
    again, _ = order([4, 9, 1], [1.0, 2.0, 0.5])
    assert again.indices(np.array([2047, 5])).tolist() == [whole[2047], whole[5]]
    other, _ = order([4, 9, 1], [1.0, 2.0, 0.5], seed=1)
    assert (other.indices(np.arange(3000)) != whole).mean() > 0.9


def test_a_group_of_weight_zero_is_never_drawn() -> None:
    drawn_from, members = order([4, 9], [0.0, 1.0])
    assert not np.isin(drawn_from.indices(np.arange(5000)), members[0]).any()


def test_a_batch_of_a_weighted_stream_is_local() -> None:
    """A worker meets few row groups, so it keeps few."""
    drawn_from, _ = order([400, 400], [1.0, 1.0])
    batch = drawn_from.indices(np.arange(4096, 4096 + 256))
    assert len(np.unique(batch // 10)) < 128, "drawn at random it would be about 220"
