"""Metrics of masks: overlaps, surface values and the pooled score, their intervals and differences."""

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from biovfm_hf.errors import UserError
from evaluation.statistics import masks, metrics
from evaluation.statistics.bootstrap import Resampling


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_overlap_equals_scikit_learn_and_sums_over_slices(seed, classes):
    rng = np.random.default_rng(seed)
    decided, truth = rng.integers(0, classes, (2, 3, 8, 8))
    whole = masks.segmentation_counts(decided, truth, classes)
    slices = sum(masks.segmentation_counts(d, t, classes) for d, t in zip(decided, truth, strict=True))
    assert np.array_equal(whole, slices)
    every = dict(labels=np.arange(classes), average=None)
    expected = oracle.f1_score(truth.ravel(), decided.ravel(), **every)
    np.testing.assert_allclose(masks.dice(whole), expected)
    np.testing.assert_allclose(masks.jaccard(whole), oracle.jaccard_score(truth.ravel(), decided.ravel(), **every))


def test_overlap_of_an_absent_structure_is_undefined_and_of_an_invented_one_zero():
    empty, drawn = np.zeros((4, 4), int), np.eye(4, dtype=int)
    assert np.isnan(masks.dice(masks.segmentation_counts(empty, empty, 2))[1])
    assert masks.dice(masks.segmentation_counts(drawn, empty, 2))[1] == 0
    assert masks.jaccard(masks.segmentation_counts(drawn, empty, 2))[1] == 0


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="differ in shape"):
        masks.segmentation_counts(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
    with pytest.raises(UserError, match=r"classes 0\.\.7"):
        masks.segmentation_counts(np.array([0, 7]), np.array([0, 1]), 2)


def test_a_stray_structure_on_background_costs_dice_and_not_jaccard():
    truth = np.zeros((4, 4), int)
    truth[:2, :2] = 1
    decided = truth.copy()
    decided[3, 3] = 2
    found = masks.pooled_scores(masks.segmentation_counts(decided, truth, 3))
    assert found["radiology_dice"] == 0.5 and found["radiology_jaccard"] == 1.0


def counts_of(decided, truth, classes):
    return np.stack([masks.segmentation_counts(d, t, classes) for d, t in zip(decided, truth, strict=True)])


def drawn_masks(seed=0, classes=3, accuracy=0.8):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (12, 8, 8))
    return np.where(rng.random(truth.shape) < accuracy, truth, 0), truth


def intervals_of(counts, resamples=20):
    return masks.mask_intervals({masks.COUNTS: counts}, ["none", "a", "b"], Resampling("fast", resamples, 0))


def test_intervals_hold_the_pooled_score_and_a_lone_case_has_none():
    counts = counts_of(*drawn_masks(), 3)
    entries = intervals_of(counts, 200)
    for name, value in masks.pooled_scores(counts.sum(0)).items():
        assert entries[name]["low"] < entries[name]["value"] < entries[name]["high"], name
        assert entries[name]["value"] == pytest.approx(float(value))
    assert intervals_of(counts[:1])["radiology"]["low"] is None
    empty = counts_of(np.zeros((2, 4, 4), int), np.zeros((2, 4, 4), int), 3)
    assert intervals_of(empty)["radiology"]["value"] is None


def test_classes_have_entries_of_their_own_beside_the_mean():
    counts = counts_of(*drawn_masks(), 3)
    entries = intervals_of(counts)
    per_class = masks.dice(counts)
    assert entries["dice_a"]["value"] == pytest.approx(per_class[:, 1].mean())
    assert entries["dice"]["value"] == pytest.approx(per_class[:, 1:].mean())


def test_counts_of_the_study_stand_for_pooled_scores_where_they_are_kept():
    counts, others = counts_of(*drawn_masks(), 3), counts_of(*drawn_masks(1), 3)
    arrays = {masks.COUNTS: counts, masks.STUDY_COUNTS: others}
    entries = masks.mask_intervals(arrays, ["none", "a", "b"], Resampling("fast", 20, 0))
    assert entries["radiology"]["value"] == pytest.approx(float(masks.pooled_scores(others.sum(0))["radiology"]))
    assert entries["dice"]["value"] == pytest.approx(masks.mean_dice(counts))


@pytest.mark.parametrize("name", ["dice", "radiology", "hd95"])
def test_differences_are_those_of_the_values_and_turn_with_the_models(name):
    rng = np.random.default_rng(0)
    first, second = (
        {masks.COUNTS: counts_of(*drawn_masks(0, accuracy=accuracy), 3), masks.SURFACE_VALUES: rng.random((12, 2, 3))}
        for accuracy in (0.9, 0.5)
    )
    metric = metrics.find_metric(name)
    row, turned = (masks.paired_difference(metric, *pair, 200) for pair in ((first, second), (second, first)))
    ones = np.ones((12, 1))
    difference = masks.weighted(metric, first, ones) - masks.weighted(metric, second, ones)
    assert row["difference"] == pytest.approx(difference[0]) and row["low"] <= row["difference"] <= row["high"]
    assert turned["difference"] == pytest.approx(-row["difference"]) and turned["p"] == pytest.approx(row["p"])


def test_means_of_surfaces_leave_out_what_is_not_finite_case_by_case():
    values = np.ones((3, 2, 3))
    values[0, 0, 0] = np.inf
    values[1, :, 0] = np.nan
    values[2, :, 0] = 3
    arrays = {masks.COUNTS: counts_of(*drawn_masks(), 3)[:3], masks.SURFACE_VALUES: values}
    entry = masks.mask_intervals(arrays, ["none", "a", "b"], Resampling("fast", 20, 0))["hd95"]
    assert entry["value"] == 2 and entry["cases"] == 2
    one, other = arrays, {**arrays, masks.SURFACE_VALUES: np.full((3, 2, 3), 2.0)}
    assert masks.paired_difference(metrics.find_metric("hd95"), one, other)["difference"] == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["dice", "radiology"]))
def test_a_weighting_counts_each_case_as_often_as_its_weight(seed, name):
    rng = np.random.default_rng(seed)
    counts = counts_of(*drawn_masks(seed), 3)
    weights = rng.integers(0, 3, 12)
    weights[0] += 1
    metric = metrics.find_metric(name)
    repeated = masks.weighted(metric, {masks.COUNTS: np.repeat(counts, weights, axis=0)}, np.ones((weights.sum(), 1)))
    found = masks.weighted(metric, {masks.COUNTS: counts}, weights[:, None])
    np.testing.assert_allclose(found, repeated)
