"""Fits recover known curves, intervals cover at their stated rate, and four points decide nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress

from evaluation.analysis.scaling import power_law

FOUR = np.array([5.5, 21.7, 85.8, 303.3])
EIGHT = np.geomspace(2, 1000, 8)


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.5, 0.5), st.floats(-3, 5), st.integers(2, 8))
def test_exact_points_give_back_a_and_b(a, b, n):
    x = np.geomspace(3, 500, n)
    found = power_law.fit_power_law(x, np.exp(b) * x**a, resamples=1)
    assert found.a == pytest.approx(a, abs=1e-9)
    assert found.b == pytest.approx(b, abs=1e-8)
    np.testing.assert_allclose(found(x), np.exp(b) * x**a)


def test_errors_equal_scipys_regression():
    rng = np.random.default_rng(0)
    y = 80 * EIGHT**0.02 * np.exp(rng.normal(0, 0.01, 8))
    ours, theirs = power_law.fit_power_law(EIGHT, y), linregress(np.log(EIGHT), np.log(y))
    assert ours.a == pytest.approx(theirs.slope)
    assert ours.a_se == pytest.approx(theirs.stderr)
    assert ours.b_se == pytest.approx(theirs.intercept_stderr)
    assert ours.r2 == pytest.approx(theirs.rvalue**2)


def test_intervals_cover_a_and_b_in_95_percent_of_1000_simulations():
    rng = np.random.default_rng(2)
    a, b = 0.0191, np.log(85)
    y = np.exp(b + a * np.log(FOUR) + rng.normal(0, 0.01, (1000, 4)))
    fits = [power_law.fit_power_law(FOUR, row, resamples=199, seed=i) for i, row in enumerate(y)]
    assert 0.93 <= np.mean([f.a_low <= a <= f.a_high for f in fits]) <= 0.97
    assert 0.93 <= np.mean([f.b_low <= b <= f.b_high for f in fits]) <= 0.97
    assert 0.89 <= np.mean([f.boot_low <= a <= f.boot_high for f in fits]) <= 0.94  # as the module says: 91.4 %


def test_case_errors_propagate_to_the_slope():
    """Simulated: scores that scatter by their own standard error scatter the slope by case_se."""
    rng = np.random.default_rng(3)
    y, se = 80 * FOUR**0.02, np.array([0.5, 0.4, 0.3, 0.3])
    slopes = [power_law.fit_power_law(FOUR, y + rng.normal(0, se), resamples=1).a for _ in range(2000)]
    assert power_law.fit_power_law(FOUR, y, se).case_se == pytest.approx(np.std(slopes), rel=0.06)


def test_two_and_three_sizes_claim_no_more_than_they_know():
    two = power_law.fit_power_law(FOUR[:2], np.array([80.0, 90.0]))
    three = power_law.fit_power_law(FOUR[:3], np.array([80.0, 90.0, 91.0]))
    assert np.isnan([two.a_se, two.a_low, two.boot_low]).all()
    assert np.isfinite([three.a_se, three.a_low]).all()
    assert np.isnan(three.boot_low)


@pytest.mark.parametrize(("x", "y"), [([5, 5], [80, 90]), ([5, 9], [80, 0]), ([5, 9], [80, -1]), ([0, 9], [80, 1])])
def test_what_has_no_power_law_is_refused(x, y):
    with pytest.raises(ValueError, match="two different sizes"):
        power_law.fit_power_law(np.array(x), np.array(y))


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.5])
def test_a_saturating_curve_is_recovered(rate):
    y = 95 - 20 * EIGHT**-rate
    found = power_law.fit_saturating(EIGHT, y)
    assert found.limit == pytest.approx(95, abs=0.05)
    assert found.rate == pytest.approx(rate, rel=0.02)
    np.testing.assert_allclose(found(EIGHT), y, atol=1e-3)


def test_the_limit_is_never_above_the_ceiling():
    found = power_law.fit_saturating(EIGHT, 80 * EIGHT**0.03)
    assert found.limit <= 100


def test_aicc_prefers_the_form_that_made_the_points():
    rng = np.random.default_rng(1)
    noise = np.exp(rng.normal(0, 5e-4, 8))
    for y, expected in ((95 - 30 * EIGHT**-0.8, "saturating"), (60 * EIGHT**0.05, "power law")):
        law, curve = power_law.fit_power_law(EIGHT, y * noise), power_law.fit_saturating(EIGHT, y * noise)
        assert power_law.choose_form(EIGHT, y * noise, law, curve).preferred == expected


def test_aicc_by_hand():
    # n = 8, two curve parameters and a variance: 8 ln(0.04/8) + 6 + 24/4
    assert power_law.aicc(0.04, 8, 2) == pytest.approx(8 * np.log(0.005) + 12)
    assert np.isnan(power_law.aicc(0.04, 4, 2))


def test_four_sizes_leave_the_form_undecided():
    y = np.array([92.5, 94.2, 94.2, 94.9])
    law, curve = power_law.fit_power_law(FOUR, y), power_law.fit_saturating(FOUR, y)
    choice = power_law.choose_form(FOUR, y, law, curve)
    assert choice.preferred == "undecided"
    assert "4 sizes cannot distinguish" in choice.statement
    assert power_law.fit_saturating(FOUR[:3], y[:3]) is None


def test_logit_slope_is_that_of_the_odds():
    x = np.array([1.0, 4, 16, 64])
    odds = 0.5 * x**0.3
    fit = power_law.fit_logit(x, 100 * odds / (1 + odds))
    assert fit.a == pytest.approx(0.3) and fit.low == pytest.approx(0.3) and fit.high == pytest.approx(0.3)
    assert power_law.fit_logit(x, np.array([50.0, 60, 70, 100])) is None
    assert np.isnan(power_law.fit_logit(x[:2], np.array([50.0, 60])).low)


def test_the_interval_of_the_limit_holds_it_and_is_open_where_sizes_are_few():
    rng = np.random.default_rng(0)
    x, held = np.geomspace(1, 1000, 10), 0
    for _ in range(40):
        fit = power_law.fit_saturating(x, (80 - 40 * x**-0.6) * np.exp(rng.normal(0, 0.01, 10)))
        low, high = (np.nan_to_num(fit.limit_low, nan=0), np.nan_to_num(fit.limit_high, nan=100))
        held += low <= 80 <= high
        assert low <= fit.limit <= high
    assert held >= 34
    four = power_law.fit_saturating(x[::3], (80 - 40 * x[::3] ** -0.6) * np.array([1.01, 0.99, 1.01, 0.99]))
    assert np.isnan(four.limit_high)  # three numbers from four sizes: nothing closes the interval
