"""Holm's correction and mean ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from biovfm_hf.results.significance import holm, mean_ranks, task_ranks


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, np.nan, 0.4]), [0.8, np.nan, 0.8])
    assert len(holm([])) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_monotone_and_between_the_raw_value_and_bonferroni(values):
    raw = np.array(values)
    adjusted = holm(raw)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1, raw * len(raw)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (4, 5), elements=st.sampled_from([0.1, 0.2, 0.3, -1.0])))
def test_ranks_are_scipys_with_the_highest_first(values):
    assert np.array_equal(task_ranks(values), rankdata(-values, axis=1))
    assert mean_ranks(values) == pytest.approx(rankdata(-values, axis=1).mean(0))
