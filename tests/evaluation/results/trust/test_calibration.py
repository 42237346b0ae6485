"""Calibration within groups: against scikit-learn's regression, known distortions, and groups without a slope."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from evaluation.results.trust.calibration import cox, expected_error, group_calibration
from evaluation.results.trust.report import group_lines, group_rows
from evaluation.statistics.split import checked_split


def made(n=4000, slope=1.0, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 1.5, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(int)
    return labels, 1 / (1 + np.exp(-(logits - shift) / slope))


def test_slope_and_intercept_are_those_of_a_logistic_regression():
    labels, scores = made(600, 0.7, 0.4)
    logits = np.log(scores / (1 - scores))[:, None]
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(logits, labels)
    found = cox(labels, scores)
    assert found["slope"]["value"] == pytest.approx(theirs.coef_[0, 0], abs=1e-4)
    assert found["intercept"]["value"] == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_intervals_hold_the_truth():
    held = [(f := cox(*made(400, seed=s)))["slope"]["low"] <= 1 <= f["slope"]["high"] for s in range(200)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.05)


def test_each_group_has_its_own():
    (good, s1), (bad, s2) = made(seed=1), made(slope=0.5, seed=2)
    labels, scores = np.r_[good, bad], np.r_[s1, s2]
    groups = np.repeat(["fair", "extreme"], len(good))
    found = group_calibration(labels, scores, groups)
    assert set(found) == {"", "fair", "extreme"} and found["fair"]["slope"]["value"] == pytest.approx(1, abs=0.1)
    assert found["extreme"]["slope"]["high"] < 0.65
    assert found["fair"]["ece"] < 0.03 < found["extreme"]["ece"]
    assert found["fair"]["prevalence"] == pytest.approx(good.mean())
    rows = group_rows(checked_split("binary-class", labels, scores).decided_at([0.5]), {"by": groups})
    assert rows[0]["calibration"] == found and "calibration slope extreme" in group_lines(rows)[0]


def test_what_gets_no_slope():
    labels = np.r_[np.ones(5), np.zeros(50)].astype(int)
    assert "5 positives" in group_calibration(labels, np.full(55, 0.1), np.repeat(["a"], 55))["a"]["reason"]
    apart = np.r_[np.full(20, 0.9), np.full(20, 0.1)]
    assert cox((apart > 0.5).astype(int), apart) is None
    assert group_calibration(labels, np.full(55, 3.0), np.zeros(55)) == {}
    assert expected_error(np.array([0, 1] * 10), np.full(20, 0.5)) == 0
