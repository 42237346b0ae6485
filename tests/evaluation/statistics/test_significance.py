"""Tests between models against textbook examples, exact properties and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from biovfm_hf.errors import UserError
from evaluation.statistics import bootstrap, kinds, metrics
from evaluation.statistics import significance as compare
from evaluation.statistics.split import checked_split

BINARY = kinds.BINARY


def scored(labels, scores, thresholds=0.5, task=BINARY):
    return checked_split(task, labels, scores).decided_at(thresholds)


def paired_bootstrap(task, labels, scores_a, scores_b, thresholds_a, thresholds_b, n=1000, seed=0):
    first, second = scored(labels, scores_a, thresholds_a, task), scored(labels, scores_b, thresholds_b, task)
    return compare.paired_bootstrap(first, second, n, seed)


def two_models(rng, n=200, gain=0.0):
    labels = np.repeat([0, 1], n // 2)
    shared = rng.normal(size=n) + labels
    return labels, shared + 0.5 * rng.normal(size=n) + gain * labels, shared + 0.5 * rng.normal(size=n)


def test_a_model_does_not_differ_from_itself():
    labels, scores, _ = two_models(np.random.default_rng(0))
    found = paired_bootstrap(BINARY, labels, scores, scores, np.array([0.5]), np.array([0.5]), n=100)
    for entry in found.values():
        assert entry == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    same = compare.delong(labels, scores, scores)
    assert (same.difference, same.z, same.p) == (0.0, 0.0, 1.0)


def test_paired_bootstrap_and_delong_agree_and_pairing_narrows():
    labels, a, b = two_models(np.random.default_rng(1), gain=0.4)
    half = np.array([0.5])
    paired = paired_bootstrap(BINARY, labels, a, b, half, half, n=2000)["auc"]
    exact = compare.delong(labels, a, b)
    assert paired["difference"] == pytest.approx(exact.difference)
    width = (paired["high"] - paired["low"]) / (2 * 1.96)
    assert width == pytest.approx(exact.standard_error, rel=0.15)
    alone = [bootstrap.intervals(scored(labels, s), bootstrap.Resampling("fast"))["auc"] for s in (a, b)]
    unpaired = np.hypot(*[entry["high"] - entry["low"] for entry in alone])
    assert paired["high"] - paired["low"] < 0.8 * unpaired


def test_paired_differences_are_differences_on_shared_resamples():
    labels, a, b = two_models(np.random.default_rng(2), n=60)
    drawn = []
    for scores in (a, b):
        scorer = metrics.Scorer(scored(labels, scores))
        drawn.append(bootstrap.resampled_metrics(scorer, bootstrap.Resampler(60, "fast", seed=3), 200)["mcc"])
    expected = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    half = np.array([0.5])
    found = paired_bootstrap(BINARY, labels, a, b, half, half, n=200, seed=3)["mcc"]
    np.testing.assert_allclose([found["low"], found["high"]], expected)


def test_undefined_differences_say_why():
    found = paired_bootstrap(BINARY, np.zeros(4), np.arange(4), np.arange(4), np.ones(1), np.ones(1), n=10)
    assert found["auc"]["difference"] is None
    assert found["auc"]["reason"] == "every sample is of class 0"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 1000]))
def test_delong_variance_equals_its_definition(seed, levels):
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 0, 1, 1, rng.integers(0, 2, 12)]
    scores = rng.integers(0, levels, (2, 16)).astype(float)
    aucs, shares = compare.delong_shares(labels, scores)
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    wins = (positive[:, :, None] > negative[:, None]) + 0.5 * (positive[:, :, None] == negative[:, None])
    expected = np.cov(wins.mean(2)) / positive.shape[1] + np.cov(wins.mean(1)) / negative.shape[1]
    np.testing.assert_allclose(aucs, wins.mean((1, 2)), atol=1e-12)
    np.testing.assert_allclose(shares @ shares.T, expected, atol=1e-12)


def test_delong_of_several_labels_is_that_of_one_repeated_and_agrees_with_the_bootstrap():
    rng = np.random.default_rng(6)
    labels = (rng.random((400, 3)) < [0.2, 0.5, 0.3]).astype(int)
    a, b = (rng.normal(size=(400, 3)) + labels + 0.2 * k for k in (1, 0))
    one = compare.delong(labels[:, 0], a[:, 0], b[:, 0])
    again = compare.delong(labels[:, [0, 0]], a[:, [0, 0]], b[:, [0, 0]])
    assert (again.difference, again.p) == pytest.approx((one.difference, one.p))
    several = compare.delong(labels, a, b)
    half = np.full(3, 0.5)
    drawn = paired_bootstrap(kinds.MULTILABEL, labels, a, b, half, half, n=2000)["auc"]
    assert several.difference == pytest.approx(drawn["difference"])
    assert several.standard_error == pytest.approx((drawn["high"] - drawn["low"]) / (2 * 1.96), rel=0.15)


def test_delong_by_subject_is_wider_where_cases_of_a_subject_resemble_each_other():
    rng = np.random.default_rng(7)
    subjects = np.repeat(np.arange(60), 6)
    labels = np.repeat(rng.integers(0, 2, 60), 6)
    a, b = (labels + np.repeat(rng.normal(size=60), 6) + 0.1 * rng.normal(size=360) for _ in range(2))
    alone, grouped = compare.delong(labels, a, b), compare.delong(labels, a, b, subjects)
    assert grouped.difference == alone.difference and grouped.standard_error > 2 * alone.standard_error
    each = compare.delong(labels, a, b, np.arange(360))
    assert each.standard_error == pytest.approx(alone.standard_error)


def test_delong_keeps_its_level_under_no_difference():
    rng = np.random.default_rng(4)
    rejected = [compare.delong(*two_models(rng)).p < 0.05 for _ in range(400)]
    assert 0.02 <= np.mean(rejected) <= 0.085


def test_delong_needs_two_of_each_class():
    with pytest.raises(UserError, match="two positives"):
        compare.delong(np.array([0, 0, 1]), np.arange(3), np.arange(3))
    with pytest.raises(UserError, match="one score per case"):
        compare.delong(np.array([0, 0, 1]), np.arange(4), np.arange(4))


def test_ranks_and_friedman_equal_scipy():
    values = np.random.default_rng(0).normal(size=(12, 5)) + np.arange(5)
    found = compare.rank_models(values)
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*values.T).pvalue)
    assert np.argmin(found.ranks) == 4
    assert found.ranks.sum() == pytest.approx(15)


def test_critical_difference_equals_demsars_table():
    """Demsar (2006), table 5: q = 2.343, 2.569, 2.728 for three, four and five models at 0.05."""
    assert compare.rank_models(np.random.default_rng(0).normal(size=(14, 4))).critical_difference == pytest.approx(
        2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3
    )
    for models, q in ((3, 2.343), (5, 2.728)):
        found = compare.rank_models(np.random.default_rng(0).normal(size=(10, models)))
        assert found.critical_difference == pytest.approx(q * np.sqrt(models * (models + 1) / 60), rel=1e-3)


def test_groups_join_models_within_the_critical_difference():
    values = np.tile([4.0, 3.0, 2.0, 1.0], (30, 1))
    values[::2] = [3.0, 4.0, 2.0, 1.0]
    found = compare.rank_models(values)
    assert [0, 1] in [sorted(g) for g in found.groups]
    assert not any({0, 3} <= set(g) for g in found.groups)
    assert compare.rank_models(np.ones((5, 3))).groups == [[0, 1, 2]]


def test_ranking_refuses_missing_scores_and_single_tasks():
    with pytest.raises(UserError, match="lacks a score"):
        compare.rank_models(np.array([[1.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(UserError, match="two tasks"):
        compare.rank_models(np.ones((1, 3)))


def test_seed_spread_separates_seeds_from_cases():
    """Values built as seed effect + shared case effect: the parts must come back."""
    rng = np.random.default_rng(0)
    seeds, cases = rng.normal(0, 0.02, (200, 1)), rng.normal(0, 0.05, (1, 2001))
    cases[0, 0] = 0
    found = compare.seed_spread(0.9 + seeds + cases)
    assert found.seed_sd == pytest.approx(0.02, rel=0.15)
    assert found.case_se == pytest.approx(0.05, rel=0.1)
    assert found.total_se == pytest.approx(np.hypot(0.05, 0.02 / np.sqrt(200)), rel=0.1)
    with pytest.raises(UserError, match="two seeds"):
        compare.seed_spread(np.ones((1, 10)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 60))
def test_paired_bootstrap_equals_a_loop_of_scikit_learn_calls(seed, n):
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, n - 2)]
    a, b = (np.round(0.3 * labels + rng.random(n), 1) for _ in range(2))
    resampler = bootstrap.Resampler(n, "fast", 2)
    drawn = []
    for number in range(15):
        taken = np.repeat(np.arange(n), resampler.counts(number))
        if 0 < labels[taken].mean() < 1:
            drawn.append(roc_auc_score(labels[taken], a[taken]) - roc_auc_score(labels[taken], b[taken]))
    found = paired_bootstrap(BINARY, labels, a, b, np.full(1, 0.5), np.full(1, 0.5), 15, seed=2)["auc"]
    assert found["difference"] == pytest.approx(roc_auc_score(labels, a) - roc_auc_score(labels, b))
    np.testing.assert_allclose([found["low"], found["high"]], np.quantile(drawn, [0.025, 0.975]), atol=1e-12)
    below = sum(value <= 1e-12 for value in drawn), sum(value >= -1e-12 for value in drawn)
    assert found["p"] == pytest.approx(min(1, 2 * (min(below) + 1) / (len(drawn) + 1)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_seed_spread_equals_its_definition(seed, seeds):
    rng = np.random.default_rng(seed)
    drawn = rng.random((seeds, 1)) + 0.1 * rng.random((1, 40)) + 0.05 * rng.random((seeds, 40))
    found = compare.seed_spread(drawn)
    points, resamples = drawn[:, 0], drawn[:, 1:]
    assert found.seed_sd == pytest.approx(np.std(points, ddof=1)) and found.mean == pytest.approx(points.mean())
    together = np.var(resamples.mean(0), ddof=1) + np.var(points, ddof=1) / seeds
    assert found.total_se == pytest.approx(np.sqrt(together))


@pytest.mark.parametrize(("seeds", "lowest"), [(2, 0.84), (3, 0.90), (5, 0.92)])
def test_intervals_over_few_seeds_hold_the_truth(seeds, lowest):
    """1.96 standard errors held it in 71, 82 and 89 % of such studies, whose variance is nearly all the seeds'."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        points = rng.normal(0, 0.1) + rng.normal(0, 1, (seeds, 1))
        spread = compare.seed_spread(np.concatenate([points, points + rng.normal(0, 0.1, 200)], 1))
        held.append(abs(spread.mean) <= spread.half_width())
        assert (spread.p() >= 0.05) == held[-1]
    assert lowest < np.mean(held) < 0.97


def test_draws_from_one_small_split_are_not_taken_for_independent():
    """Means of 16 out of 60 values, whose own mean is off: unless their overlap counts, 45 % find that real."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        pool, cases = rng.normal(size=60), np.zeros(2)
        points = np.array([rng.choice(pool, 16, replace=False).mean() for _ in range(20)])
        found.append([compare.spread_of_mean(points, cases, share).p() < 0.05 for share in (0.0, 16 / 60)])
    alone, counted = np.mean(found, axis=0)
    assert alone > 0.3 and 0.02 < counted < 0.08


def test_values_without_any_spread_have_an_exact_result():
    assert compare.seed_spread(np.zeros((3, 9))).p() == 1 and compare.seed_spread(np.ones((3, 9))).p() == 0
