"""The vectorised bootstrap against the loop of scikit-learn calls that it reproduces, on ChestMNIST's size."""

import time
import warnings

import numpy as np
import pytest
from sklearn import metrics as oracle

from evaluation.statistics import bootstrap, kinds, metrics
from evaluation.statistics.split import checked_split

LOOPED = 4


def one_resample_by_scikit_learn(labels, scores, thresholds, draw):
    """The eight metrics of one resample as the published evaluation computes them: label by label."""
    taken = np.random.RandomState(draw).randint(0, len(labels), len(labels))
    labels, scores = labels[taken], scores[taken]
    decided = scores > thresholds
    found = {"accuracy": 0.0, "balanced_accuracy": 0.0, "mcc": 0.0, "auc": 0.0}
    for k in range(labels.shape[1]):
        found["accuracy"] += oracle.accuracy_score(labels[:, k], decided[:, k]) / labels.shape[1]
        found["balanced_accuracy"] += oracle.balanced_accuracy_score(labels[:, k], decided[:, k]) / labels.shape[1]
        found["mcc"] += oracle.matthews_corrcoef(labels[:, k], decided[:, k]) / labels.shape[1]
        found["auc"] += oracle.roc_auc_score(labels[:, k], scores[:, k]) / labels.shape[1]
    for average in ("micro", "macro"):
        found[f"recall_{average}"] = oracle.recall_score(labels, decided, average=average)
        found[f"f1_{average}"] = oracle.f1_score(labels, decided, average=average)
    return found


def measured():
    """CPU seconds of a thousand resamples, ours and (from `LOOPED` of them) the loop's, and the metrics of each."""
    rng = np.random.default_rng(0)
    prevalence = np.geomspace(0.002, 0.18, 14)
    labels = (rng.random((22_433, 14)) < prevalence).astype(int)
    scores = (rng.random((22_433, 14)) + 0.3 * labels).astype(np.float32)
    thresholds = np.full(14, 0.6)
    start = time.process_time()
    split = checked_split(kinds.MULTILABEL, labels, scores)
    scorer = metrics.Scorer(split.decided_at(thresholds))
    drawn = bootstrap.resampled_metrics(scorer, bootstrap.Resampler(split.size), 1000)
    ours = time.process_time() - start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.process_time()
        looped = [one_resample_by_scikit_learn(labels, scores, thresholds, draw) for draw in range(LOOPED)]
        theirs = (time.process_time() - start) * 1000 / LOOPED
    return ours, theirs, drawn, looped


@pytest.mark.slow
def test_a_thousand_resamples_are_a_hundred_times_faster_than_the_loop():
    ours, theirs, drawn, looped = measured()
    for draw, expected in enumerate(looped):
        for name, value in expected.items():
            assert drawn[name][draw] == pytest.approx(value, abs=1e-12), name
    print(f"\n1,000 resamples of 22,433 x 14: loop {theirs:.0f} s (from {LOOPED}), vectorised {ours:.2f} s, "
          f"{theirs / ours:.0f} times faster")  # fmt: skip
    assert theirs / ours >= 100
