"""Changes of features that the similarity of layers and the dimensions of features must not depend on."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from evaluation.analysis.layers.similarity import cka_map, hsic
from evaluation.analysis.layers.spectrum import effective_rank, mle_dimension, participation_ratio, rankme, two_nn

CASES = {"seed": st.integers(0, 2**32 - 1), "scale": st.floats(1e-3, 1e3), "width": st.integers(2, 8)}


def moved(rng, features, scale):
    """Features turned, scaled and shifted."""
    width = features.shape[1]
    return scale * features @ ortho_group.rvs(width, random_state=rng) + scale * rng.normal(size=width)


@settings(max_examples=25, deadline=None)
@given(**CASES)
def test_cka_does_not_change_with_rotation_scale_place_and_order(seed, scale, width):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(30, width)), rng.normal(size=(30, 5))
    b[:, 0] += a[:, 0]
    order = rng.permutation(30)
    value = cka_map([a], [b])[0, 0]
    assert cka_map([moved(rng, a, scale)], [b])[0, 0] == pytest.approx(value, abs=1e-8)
    assert cka_map([a[order]], [b[order]])[0, 0] == pytest.approx(value, abs=1e-10)
    assert cka_map([b], [a])[0, 0] == pytest.approx(value, abs=1e-12)
    assert cka_map([a], batch=30)[0, 0] == pytest.approx(1)


@settings(max_examples=10, deadline=None)
@given(seed=CASES["seed"], n=st.integers(5, 8))
def test_hsic_is_the_mean_over_all_fours_of_images(seed, n):
    """As a U-statistic of order 4 it must be (Song et al. 2012), which makes it unbiased."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    fours = [hsic(a[list(rows)], b[list(rows)]) for rows in combinations(range(n), 4)]
    assert hsic(a, b) == pytest.approx(np.mean(fours))


@pytest.mark.parametrize("measure", [two_nn, mle_dimension, effective_rank, participation_ratio])
@settings(max_examples=15, deadline=None)
@given(**CASES)
def test_dimensions_do_not_change_with_rotation_scale_and_place(measure, seed, scale, width):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(80, width)) * rng.uniform(0.2, 2, width)
    assert measure(moved(rng, features, scale)) == pytest.approx(measure(features), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=CASES["seed"], width=st.integers(1, 8), rank=st.integers(1, 8))
def test_ranks_lie_between_1_and_the_number_of_dimensions(seed, width, rank):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(40, min(rank, width))) @ rng.normal(size=(min(rank, width), width))
    for measure in (effective_rank, participation_ratio, rankme):
        assert 1 - 1e-6 <= measure(features) <= min(rank, width) + 1e-3
    assert participation_ratio(features) <= effective_rank(features) ** 2


@settings(max_examples=8, deadline=None)
@given(seed=CASES["seed"], dimension=st.integers(1, 4))
def test_a_flat_space_within_a_larger_one_has_its_own_dimension(seed, dimension):
    rng = np.random.default_rng(seed)
    flat = rng.uniform(size=(600, dimension)) @ ortho_group.rvs(8, random_state=rng)[:dimension]
    for measure in (two_nn, mle_dimension):
        assert measure(flat) == pytest.approx(dimension, rel=0.3)
