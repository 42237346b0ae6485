"""The choice of thresholds against plain loops and scikit-learn, and its refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef, roc_curve

from biovfm_hf.errors import UserError
from evaluation.statistics.kinds import BINARY, MULTICLASS, MULTILABEL
from evaluation.statistics.split import checked_split
from evaluation.statistics.thresholds import choose_thresholds, threshold_notes


def chosen_thresholds(task, labels, scores, protocol="biovfm"):
    return choose_thresholds(checked_split(task, labels, scores, "val"), protocol)


def published_threshold(labels, scores):
    """The published rule, step by step with scikit-learn."""
    candidates = np.sort(roc_curve(labels, scores)[2][1:])
    if len(candidates) > 1000:
        candidates = candidates[:: int(len(candidates) / 1000)]
    return candidates[np.argmax([matthews_corrcoef(labels, scores >= c) for c in candidates])]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 80), st.sampled_from([3, 10, 10**6]))
def test_thresholds_follow_the_published_rule(seed, n, levels):
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, n)]
    scores = (rng.integers(0, levels, n + 2) / levels).astype(np.float32)
    assert chosen_thresholds(BINARY, labels, scores)[0] == published_threshold(labels, scores)


def test_thousands_of_candidates_are_thinned_as_published():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 6400)
    scores = rng.random(6400) + 0.3 * labels
    assert len(roc_curve(labels, scores)[2]) > 2001
    assert chosen_thresholds(BINARY, labels, scores)[0] == published_threshold(labels, scores)


def test_fast_thresholds_lie_between_scores_and_reach_the_best_mcc():
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 60), rng.random(60)
    chosen = chosen_thresholds(BINARY, labels, scores, "fast")[0]
    assert chosen not in scores
    best = max(matthews_corrcoef(labels, scores >= c) for c in scores)
    assert matthews_corrcoef(labels, scores > chosen) == pytest.approx(best)


def test_multiclass_tasks_need_no_threshold():
    assert chosen_thresholds(MULTICLASS, np.array([0, 1]), np.eye(2)) == [0.5]


def test_a_validation_split_of_one_class_is_refused_and_a_label_of_one_class_named():
    with pytest.raises(UserError, match="one class only"):
        chosen_thresholds(BINARY, np.ones(5), np.linspace(0, 1, 5))
    labels, scores = np.array([[0, 0], [1, 0]]), np.array([[0.2, 0.3], [0.8, 0.4]])
    assert chosen_thresholds(MULTILABEL, labels, scores)[1] == 0.3
    assert "label 1" in threshold_notes(checked_split(MULTILABEL, labels, scores))[0]
