"""Bounds of shares by epochs, and mixtures that are held out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biovfm_hf.errors import UserError
from evaluation.analysis.composition.designs import distinct, held_out_draws, lattice, limits_of, within_limits


def test_a_share_is_bounded_by_passes_over_its_images():
    np.testing.assert_allclose(limits_of(np.array([1e6, 100]), 10_000, 15), [1, 0.15])
    with pytest.raises(UserError, match="train for fewer"):
        limits_of(np.array([100.0, 100]), 10_000, 15)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_shares_within_limits_are_shares_and_unmoved_where_they_fit(seed, groups):
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(groups, 0.3), 20)
    limits = random.uniform(0.02, 1, groups)
    limits[0] = 1.0
    inside = within_limits(shares, limits)
    np.testing.assert_allclose(inside.sum(axis=1), 1)
    assert inside.min() >= 0 and (inside <= limits + 1e-9).all()
    fits = (shares <= limits).all(axis=1)
    np.testing.assert_allclose(inside[fits], shares[fits], atol=1e-12)


def test_what_is_over_goes_to_the_others_in_proportion():
    limits = np.array([0.2, 1, 1])
    np.testing.assert_allclose(within_limits([[0.6, 0.3, 0.1]], limits), [[0.2, 0.6, 0.2]])
    np.testing.assert_allclose(within_limits([[1.0, 0, 0]], limits), [[0.2, 0.4, 0.4]])


def test_held_out_mixtures_lie_apart_from_the_design():
    design = lattice(4, 2)
    limits = np.array([1, 1, 1, 0.3])
    held_out = held_out_draws(design, limits, 5, seed=3)
    assert held_out.shape == (5, 4) and (held_out[:, 3] <= 0.3 + 1e-6).all()
    gaps = np.abs(held_out[:, None] - np.concatenate([design, held_out])[None]).sum(axis=2)
    assert np.sort(gaps, axis=1)[:, 1].min() > 0.149  # distance to the nearest other row
    np.testing.assert_array_equal(held_out, held_out_draws(design, limits, 5, seed=3))
    with pytest.raises(UserError, match="fewer held out"):
        held_out_draws(lattice(2, 20), np.ones(2), 3)
    assert len(distinct(np.array([[0.5, 0.5], [0.5, 0.5], [1, 0]]))) == 2
