"""Properties of the fitted responses, for any law and any names of the groups."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluation.analysis.composition.designs import lattice
from evaluation.analysis.composition.responses import RESPONSES, fit_quality, scheffe_terms


def law(name, rng, groups):
    """A response of the form `name` with random numbers: from shares (n, groups) to losses (n,)."""
    weights, floor = rng.normal(size=groups), rng.normal()
    products = rng.normal(size=groups * (groups + 1) // 2)
    return {
        "linear": lambda r: r @ weights + floor,
        "exponential": lambda r: floor + np.exp(r @ weights),
        "scheffe": lambda r: scheffe_terms(r) @ products,
    }[name]


@pytest.mark.parametrize(("name", "tolerance"), [("linear", 1e-9), ("exponential", 1e-3), ("scheffe", 0.15)])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(2, 4))
@example(seed=370, groups=2)  # the exponential law needs more than 200 steps
def test_a_law_is_found_again_from_its_own_losses(name, tolerance, seed, groups):
    rng = np.random.default_rng(seed)
    true, shares, others = law(name, rng, groups), lattice(groups, 3), rng.dirichlet(np.ones(groups), 20)
    losses = true(shares)
    predicted = RESPONSES[name].fit(shares, losses)(others)
    assert np.abs(predicted - true(others)).max() <= tolerance * max(np.ptp(losses), 0.1)


@pytest.mark.parametrize("name", ["linear", "exponential", "scheffe"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_neither_the_order_of_groups_nor_that_of_runs_changes_a_response(name, seed):
    rng = np.random.default_rng(seed)
    shares, others = lattice(3, 3), rng.dirichlet(np.ones(3), 20)
    losses = law("exponential", rng, 3)(shares) + 0.05 * rng.normal(size=len(shares))
    groups, runs = rng.permutation(3), rng.permutation(len(shares))
    plain = RESPONSES[name].fit(shares, losses)(others)
    turned = RESPONSES[name].fit(shares[runs][:, groups], losses[runs])(others[:, groups])
    np.testing.assert_allclose(turned, plain, atol=2e-2 * np.ptp(losses) if name == "exponential" else 1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5))
def test_ranks_and_r2_do_not_depend_on_the_unit_of_the_loss(seed, scale, shift):
    rng = np.random.default_rng(seed)
    losses, predicted = rng.normal(size=12), rng.normal(size=12)
    plain, other = fit_quality(predicted, losses), fit_quality(scale * predicted + shift, scale * losses + shift)
    assert other["spearman"] == pytest.approx(plain["spearman"])
    assert other["r2"] == pytest.approx(plain["r2"]) and other["mae"] == pytest.approx(scale * plain["mae"])
