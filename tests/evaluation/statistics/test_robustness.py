"""Errors on corrupted images and their intervals."""

import numpy as np
import pytest

from evaluation.statistics.bootstrap import Resampling
from evaluation.statistics.robustness import Baseline, robustness
from evaluation.statistics.split import checked_split


def split(labels, wrong):
    """Two classes, with the cases `wrong` on the wrong side."""
    right = np.where(np.isin(np.arange(len(labels)), wrong), 1 - labels, labels)
    return checked_split("binary-class", labels, right.astype(float)).decided_at([0.5])


def test_errors_are_divided_by_the_baselines():
    labels = np.arange(40) % 2
    found = robustness(split(labels, [0]), {"blur": [split(labels, range(4 * k)) for k in (1, 2, 3, 4, 5)]},
                       Baseline(0.05, {"blur": 0.25}), Resampling("fast", 200))  # fmt: skip
    row = found["corruptions"]["blur"]
    assert row["errors"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found["be"]["value"] == pytest.approx(0.3 / 0.25)
    assert found["rbe"]["value"] == pytest.approx((0.3 - 0.025) / 0.2)
    assert row["rise"] == pytest.approx(0.2) and found["worst"] == "blur" and not found["notes"]
    assert row["aucs"] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])


def test_the_interval_of_the_rise_is_paired():
    """The same cases are drawn with and without corruption: where errors are shared, the rise does not vary."""
    labels = np.arange(60) % 2
    wrong = range(0, 60, 5)
    found = robustness(split(labels, wrong), {"blur": [split(labels, wrong)]}, Baseline(0.1, {"blur": 0.3}),
                       Resampling("fast", 200))  # fmt: skip
    assert found["rbe"] == found["added_error"] == pytest.approx({"value": 0, "low": 0, "high": 0})
    assert found["error"]["high"] - found["error"]["low"] > 0.05


def test_a_corruption_that_helped_the_baseline_is_named():
    labels = np.arange(20) % 2
    found = robustness(split(labels, [0]), {"a": [split(labels, [0, 1])], "b": [split(labels, [0, 1])]},
                       Baseline(0.1, {"a": 0.3, "b": 0.095}), Resampling("fast", 20))  # fmt: skip
    assert found["rbe"]["value"] == pytest.approx(np.mean([0.25, -10]))
    assert "under b" in found["notes"][0] and "0.250" in found["notes"][0]


def test_without_a_baseline_there_are_only_errors():
    labels = np.arange(20) % 2
    found = robustness(split(labels, []), {"a": [split(labels, [0])]}, None, Resampling("fast", 20))
    assert "be" not in found and "be" not in found["corruptions"]["a"]
    assert found["clean_error"]["value"] == 0 and found["error"]["value"] == pytest.approx(0.05)
    assert found["added_error"]["value"] == found["corruptions"]["a"]["added_error"]["value"] == pytest.approx(0.05)
