"""Correlations against scipy, permutation p-values by brute force, and predictions that invent no skill."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import Ridge

from evaluation.analysis.scaling import correlation, published


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 14))
@example(151, 6)  # ranks in the same order
def test_both_correlations_equal_scipy(seed, n):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=n), rng.integers(0, 5, n) + 0.01 * rng.normal(size=n)
    found = correlation.correlate(x, y)
    expected = stats.pearsonr(x, y)
    assert found.pearson == pytest.approx(expected.statistic)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), abs=1e-6)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.spearman_low <= found.spearman <= found.spearman_high


def test_permutation_p_is_exact_for_few_tasks_and_close_for_more():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=6), rng.normal(size=6)
    every = [abs(np.corrcoef(x, y[list(order)])[0, 1]) for order in permutations(range(6))]
    exact = np.mean(np.array(every) >= abs(np.corrcoef(x, y)[0, 1]) - 1e-12)
    assert correlation.correlate(x, y).p == pytest.approx(exact)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    assert correlation.correlate(x, y).p == pytest.approx(stats.pearsonr(x, y).pvalue, abs=0.02)


def test_what_has_no_correlation_is_undefined():
    for x, y in (([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0])):
        found = correlation.correlate(np.array(x), np.array(y))
        assert np.isnan([found.pearson, found.low, found.p]).all()


def test_published_slopes_and_counts_give_the_published_correlations():
    printed = {(r["family"], r["property"]): float(r["pearson"]) for r in published.rows("correlations")}
    described = {row["task"]: row for row in published.rows("properties")}
    for family, slopes in published.slopes().items():
        assert len(slopes) == 12
        for name in ("num_samples", "num_classes"):
            values = np.array([float(described[task][name]) for task in slopes])
            found = correlation.correlate(values, np.array(list(slopes.values())))
            assert found.pearson == pytest.approx(printed[family, name], abs=0.03)
    assert [printed["BioVFM-D", "num_samples"], printed["BioVFM-D", "num_classes"]] == pytest.approx(
        [0.51, 0.05], abs=0.005
    )
    assert [printed["BioVFM-M", "num_samples"], printed["BioVFM-M", "num_classes"]] == pytest.approx(
        [0.33, -0.24], abs=0.005
    )


def test_published_properties_are_medmnists():
    medmnist = pytest.importorskip("medmnist")
    for row in published.rows("properties"):
        info = medmnist.INFO[row["task"]]
        assert int(row["num_samples"]) == sum(info["n_samples"].values())
        assert int(row["num_classes"]) == len(info["label"])


def test_ridge_equals_scikit_learn_at_the_penalty_that_it_chooses(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(11, 3)), rng.normal(size=11)
    at = rng.normal(size=3)
    monkeypatch.setattr(correlation, "RIDGES", np.array([2.0]))
    scaled = (x - x.mean(0)) / x.std(0)
    expected = Ridge(alpha=2.0).fit(scaled, y).predict(((at - x.mean(0)) / x.std(0))[None])[0]
    assert correlation._ridge(x, y, at) == pytest.approx(expected)


def test_prediction_finds_a_law_and_does_not_invent_one():
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=(12, 2)))
    lawful = correlation.predict_slopes(values, 0.02 + 0.01 * np.log(values[:, 0]))
    assert lawful.skill > 0.95
    assert "better than the mean slope" in lawful.statement
    claims = [correlation.predict_slopes(values, rng.normal(size=12), resamples=99).low > 0 for _ in range(60)]
    assert np.mean(claims) < 0.15


def test_prediction_never_sees_the_task_it_predicts():
    rng = np.random.default_rng(0)
    values, slopes = np.exp(rng.normal(size=(12, 2))), rng.normal(size=12)
    before = correlation.predict_slopes(values, slopes).predicted
    slopes[5] = 1e6
    assert correlation.predict_slopes(values, slopes).predicted[5] == before[5]


def test_prediction_of_equal_slopes_and_of_too_few_tasks():
    assert "nothing to predict" in correlation.predict_slopes(np.ones((6, 1)) * 2, np.zeros(6)).statement
    with pytest.raises(ValueError, match="five tasks"):
        correlation.predict_slopes(np.ones((4, 1)), np.zeros(4))
