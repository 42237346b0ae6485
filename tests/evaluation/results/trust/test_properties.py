"""What holds for any scores: the promise of conformal sets, the order of risks, gaps under other names and scales."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.results.trust import conformal, groups
from evaluation.results.trust.selective import risk_curve

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 40), st.floats(0.05, 0.99), st.sampled_from([2, 5, 10**6]))
def test_the_promise_of_a_threshold_is_exact_over_who_is_left_out(seed, n, coverage, levels):
    """Exchangeability in full: of n + 1 scores, each tested against the others, at least the promised share passes."""
    scores = np.random.default_rng(seed).integers(0, levels, n + 1).astype(np.float64)
    passed = [scores[i] <= conformal.threshold(np.delete(scores, i), coverage) for i in range(n + 1)]
    assert np.mean(passed) >= coverage - 1e-9


def probabilities(rng, n):
    """Random probabilities (n, 4) and labels (n,) that they are right about."""
    rows = rng.dirichlet(np.full(4, 0.5), n)
    return rows, np.minimum((rng.random((n, 1)) > rows.cumsum(axis=1)).sum(axis=1), 3)


@pytest.mark.parametrize("method", [conformal.lac, conformal.class_conditional, conformal.aps])
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, low=st.floats(0.5, 0.9))
def test_sets_grow_with_the_required_coverage(method, seed, low):
    rng = np.random.default_rng(seed)
    calibration, tested = conformal.Calibration(*probabilities(rng, 60), seed=0), probabilities(rng, 30)[0]
    small, large = method(calibration, tested, low), method(calibration, tested, low + 0.08)
    assert (small <= large).all()


@pytest.mark.parametrize("name", conformal.METHODS)
def test_measured_coverage_lies_where_chance_puts_it(name):
    rng, outside, covered = np.random.default_rng(1), [], []
    method = conformal.METHODS[name]
    for seed in range(150):
        (scores, labels), (tested, truth) = probabilities(rng, 60), probabilities(rng, 400)
        sets = method.make(conformal.Calibration(scores, labels, seed), tested, 0.9)
        low, high = conformal.coverage_range(method.shares(labels, truth, 0.9))
        covered.append(conformal.true_scores(sets, truth).mean())
        outside.append(not low <= covered[-1] <= high)
    assert 0.01 <= np.mean(outside) <= 0.1 and 0.89 <= np.mean(covered) <= 0.96


def test_shares_with_thresholds_of_their_own_add_up():
    share = conformal.Share(tested=1, calibrated=9, left_out=1)  # covered with probability 0.9
    np.testing.assert_allclose(share.chances(), [0.1, 0.9])
    assert conformal.coverage_range([share, share]) == (0.5, 1.0)  # 0, 1, 2 of 2: 0.01, 0.18, 0.81
    assert conformal.coverage_range([conformal.Share(7, 3, 0)]) == (1.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 50), st.sampled_from([1, 3, 1000]))
def test_risks_do_not_depend_on_the_order_or_the_scale_of_confidence(seed, n, levels):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(0, levels, n) / levels, rng.random(n) < 0.7
    curve, order = risk_curve(confidence, correct), rng.permutation(n)
    for other in (risk_curve(confidence[order], correct[order]), risk_curve(np.exp(3 * confidence), correct)):
        np.testing.assert_allclose(other.risks, curve.risks)
    assert curve.error == pytest.approx(1 - correct.mean())
    assert curve.excess_aurc >= -1e-12 and 0 <= curve.augrc <= curve.error
    assert risk_curve(correct.astype(float), correct).excess_aurc == pytest.approx(0, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_ties_count_as_the_mean_over_their_orders(seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(0, 2, 5), rng.random(5) < 0.5
    orders = [rows for rows in permutations(range(5)) if (np.diff(confidence[list(rows)]) <= 0).all()]
    curves = [np.cumsum(~correct[list(rows)]) for rows in orders]
    np.testing.assert_allclose(risk_curve(confidence, correct).errors, np.mean(curves, axis=0))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 4))
def test_gaps_do_not_depend_on_names_order_or_the_scale_of_scores(seed, count):
    rng = np.random.default_rng(seed)
    labels, members = rng.permutation(np.arange(120 * count) % 2), np.repeat(np.arange(count), 120)
    scores = labels * rng.uniform(0, 2, count)[members] + rng.normal(size=len(labels))
    plain, order, names = (
        groups.group_aucs(labels, scores, members),
        rng.permutation(len(labels)),
        rng.permutation(count),
    )
    other = groups.group_aucs(labels[order], np.exp(scores[order]), names[members[order]])
    assert other["gap"] == pytest.approx(plain["gap"]) and other["low"] == pytest.approx(plain["low"])
    assert other["worst"] == str(names[int(plain["worst"])])
    aucs = [row["auc"] for row in plain["groups"].values()]
    assert plain["gap"] == pytest.approx(max(aucs) - min(aucs)) and plain["low"] <= plain["gap"] <= plain["high"]
    assert all(pair["p"] <= pair["p_holm"] <= 1 for pair in plain["pairs"])
    turned = groups.group_aucs(1 - labels, -scores, members)
    assert turned["gap"] == pytest.approx(plain["gap"])
