"""Variance between mixtures against seeds, and lack of fit."""

import numpy as np
import pytest
from scipy.stats import f_oneway

from evaluation.analysis.composition.noise import lack_of_fit, mixtures_differ


def runs(effect, seeds, seed=0):
    random = np.random.default_rng(seed)
    shares = np.repeat(np.array([[1.0, 0], [0, 1], [0.5, 0.5], [0.25, 0.75]]), seeds, axis=0)
    return shares, effect * shares[:, 0] + random.normal(0, 0.01, len(shares))


def test_anova_is_scipys():
    shares, scores = runs(0.03, 4)
    found = mixtures_differ(shares, scores)
    theirs = f_oneway(*scores.reshape(4, 4))
    assert found["f"] == pytest.approx(theirs.statistic) and found["p"] == pytest.approx(theirs.pvalue)
    assert found["seed_sd"] == pytest.approx(np.mean(scores.reshape(4, 4).var(axis=1, ddof=1)) ** 0.5)


def test_without_repeated_runs_there_is_no_test():
    shares, scores = runs(0.03, 1)
    assert "three seeds" in mixtures_differ(shares, scores)["reason"]
    assert "three seeds" in lack_of_fit(shares, scores, scores, 2)["reason"]


def test_p_values_are_uniform_where_nothing_is_there():
    found = [mixtures_differ(*runs(0, 4, seed))["p"] for seed in range(300)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.035)
    linear = []
    for seed in range(300):
        shares, scores = runs(0.05, 4, seed)
        weights = np.linalg.lstsq(shares, scores, rcond=None)[0]
        linear.append(lack_of_fit(shares, scores, shares @ weights, 2)["p"])
    assert np.mean(np.array(linear) < 0.05) == pytest.approx(0.05, abs=0.035)


def test_a_bend_is_a_lack_of_fit_of_a_line():
    shares, scores = runs(0, 4)
    scores = scores + 0.2 * shares[:, 0] * shares[:, 1]
    weights = np.linalg.lstsq(shares, scores, rcond=None)[0]
    assert lack_of_fit(shares, scores, shares @ weights, 2)["p"] < 1e-4
    assert "as many numbers" in lack_of_fit(shares, scores, scores, 4)["reason"]
