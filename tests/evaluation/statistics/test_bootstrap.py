"""Bootstrap intervals against plain loops, their draws, their coverage and their refusals."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, matthews_corrcoef, roc_auc_score
from sklearn.utils import resample

from biovfm_hf.errors import UserError
from evaluation.statistics import bootstrap
from evaluation.statistics.kinds import BINARY, MULTICLASS, MULTILABEL
from evaluation.statistics.metrics import Scorer
from evaluation.statistics.split import checked_split
from evaluation.statistics.undefined import point_metrics


def intervals(task, labels, scores, thresholds, n=1000, protocol="biovfm", seed=0, extra=False, **of_cases):
    """Of a split with these thresholds, and with `subjects` and `strata` where they are given."""
    split = replace(checked_split(task, labels, scores).decided_at(thresholds), **of_cases)
    return bootstrap.intervals(split, bootstrap.Resampling(protocol, n, seed), extra)


def test_published_draws_are_those_of_scikit_learn():
    counts = bootstrap.Resampler(50).counts(7)
    assert np.array_equal(counts, np.bincount(resample(np.arange(50), random_state=7), minlength=50))


def test_intervals_equal_a_loop_of_scikit_learn_calls():
    rng = np.random.default_rng(0)
    labels, n = rng.integers(0, 2, 60), 60
    scores = (rng.random(60) + 0.5 * labels).round(1)
    drawn = []
    for i in range(200):
        taken = np.random.RandomState(i).randint(0, n, n)
        drawn.append(roc_auc_score(labels[taken], scores[taken]))
    found = intervals(BINARY, labels, scores, np.array([0.5]), n=200)["auc"]
    assert found["value"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["mean"] == pytest.approx(np.mean(drawn))
    assert (found["low"], found["high"]) == pytest.approx((np.sort(drawn)[4], np.sort(drawn)[194]))


def test_resamplers_that_draw_the_same_draw_once_and_no_other_gets_it():
    of_case = np.arange(30) // 2
    alike, other = (bootstrap.Resampler(30, "fast", seed, of_case, of_case % 3) for seed in (1, 2))
    (block,) = alike.blocks(20)
    assert next(bootstrap.Resampler(30, "fast", 1, of_case, of_case % 3).blocks(20)) is block
    assert np.array_equal(block.T, [alike.counts(number) for number in range(20)])
    for resampler in (other, bootstrap.Resampler(30, "fast", 1, of_case), bootstrap.Resampler(30, "fast", 1)):
        assert np.array_equal(next(resampler.blocks(20)).T, [resampler.counts(number) for number in range(20)])
    with pytest.raises(ValueError, match="read-only"):
        block[0, 0] = 1


def test_blocks_do_not_change_the_numbers(monkeypatch):
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 3, 40), rng.random((40, 3))
    whole = intervals(MULTICLASS, labels, scores, np.array([0.5]), n=50)
    monkeypatch.setattr(bootstrap, "BLOCK_BYTES", 4 * 40 * 7)
    assert intervals(MULTICLASS, labels, scores, np.array([0.5]), n=50) == whole


def test_fast_draws_depend_on_the_seed_only():
    one, same, other = (bootstrap.Resampler(30, "fast", seed=s).counts(4) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_subjects_are_drawn_whole_and_strata_keep_their_size(subjects, seed):
    rng = np.random.default_rng(seed)
    of_case = rng.integers(0, subjects, 40)
    stratum = of_case % 2
    counts = bootstrap.Resampler(40, "fast", seed=seed % 1000, clusters=of_case, stratify=stratum).counts(0)
    for subject in np.unique(of_case):
        assert len(np.unique(counts[of_case == subject])) == 1
    per_subject = {s: counts[of_case == s][0] for s in np.unique(of_case)}
    for side in np.unique(stratum):
        held = [s for s in per_subject if s % 2 == side]
        assert sum(per_subject[s] for s in held) == len(held)


def test_resampling_subjects_widens_the_interval_of_clustered_cases():
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(30), 20)
    scores = np.repeat(rng.random(30), 20) + 0.01 * rng.random(600)
    labels = np.repeat(rng.random(30) < scores[::20], 20).astype(int)
    plain = intervals(BINARY, labels, scores, np.array([0.5]), protocol="fast")["auc"]
    whole = intervals(BINARY, labels, scores, np.array([0.5]), protocol="fast", subjects=subject)["auc"]
    assert whole["high"] - whole["low"] > 2 * (plain["high"] - plain["low"])


def test_strata_that_cut_subjects_and_biovfm_with_subjects_are_refused():
    with pytest.raises(UserError, match="two strata"):
        bootstrap.Resampler(2, "fast", clusters=np.array([0, 0]), stratify=np.array([0, 1]))
    with pytest.raises(UserError, match="protocol fast"):
        bootstrap.Resampler(2, "biovfm", clusters=np.array([0, 1]))
    with pytest.raises(UserError, match="one per sample"):
        bootstrap.Resampler(3, "fast", clusters=np.array([0, 1]))
    with pytest.raises(UserError, match="unknown protocol"):
        bootstrap.Resampler(3, "best")


def test_three_samples_state_what_is_undefined():
    found = intervals(BINARY, np.array([0, 1, 1]), np.array([0.2, 0.4, 0.9]), np.array([0.3]))
    assert found["auc"]["value"] == 1.0
    assert found["auc"]["undefined_resamples"] > 200
    assert found["auc"]["high"] is None
    assert "resamples lack a class" in found["auc"]["reason"]
    assert found["accuracy"]["low"] == 1.0


def test_resamples_without_a_positive_count_for_no_metric_that_needs_one():
    labels = np.r_[np.ones(2), np.zeros(48)]
    found = intervals(BINARY, labels, 0.1 + 0.8 * labels, np.array([0.5]), protocol="fast")
    left_out = found["auc"]["undefined_resamples"]
    assert abs(left_out / 1000 - 0.96**50) < 0.03  # neither of the two is drawn
    for name in ("auc", "mcc", "balanced_accuracy", "f1_macro", "f1_micro", "recall_macro", "recall_micro"):
        assert found[name] == {"value": 1, "mean": 1, "low": 1, "high": 1, "undefined_resamples": left_out}
    assert "undefined_resamples" not in found["accuracy"]
    published = intervals(BINARY, labels, 0.1 + 0.8 * labels, np.array([0.5]))  # the authors count 0
    assert published["recall_macro"]["low"] == 0 and "undefined_resamples" not in published["recall_macro"]


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
def test_a_resample_is_undefined_where_it_would_be_as_a_split(task):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 7) if task == MULTICLASS else rng.integers(0, 2, (7, 2))
    scores = rng.random((7, 3 if task == MULTICLASS else 2))
    split = checked_split(task, labels, scores).decided_at(np.full(2, 0.5))
    resampler = bootstrap.Resampler(7, "fast", 0)
    drawn = bootstrap.resampled_metrics(Scorer(split), resampler, 60)
    for number in range(60):
        taken = np.repeat(np.arange(7), resampler.counts(number))
        alone = checked_split(task, labels[taken], scores[taken]).decided_at(np.full(2, 0.5))
        for name, value in point_metrics(alone).items():
            assert drawn[name][number] == pytest.approx(np.nan if value is None else value, nan_ok=True), name


def test_an_undefined_metric_is_none_with_its_reason():
    found = intervals(BINARY, np.zeros(9), np.linspace(0, 1, 9), np.array([0.5]), n=20)
    assert found["auc"] == {
        "value": None,
        "mean": None,
        "low": None,
        "high": None,
        "reason": "every sample is of class 0",
    }


def test_no_resamples_are_refused():
    with pytest.raises(UserError, match="0 resamples"):
        intervals(BINARY, np.array([0, 1]), np.array([0.1, 0.9]), np.array([0.5]), n=0)


def test_auc_intervals_cover_the_truth():
    """Two normals one standard deviation apart have AUC 0.760; 300 studies of 200 cases."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        labels = np.repeat([0, 1], 100)
        scores = rng.normal(size=200) + labels
        found = intervals(BINARY, labels, scores, np.array([0.5]), n=200, protocol="fast")["auc"]
        covered += found["low"] <= 0.7602499 <= found["high"]
    assert 0.91 <= covered / 300 <= 0.98


def test_means_over_cases_skip_undefined_ones():
    values = np.array([[0.5, np.nan, np.nan], [0.7, 0.2, np.nan], [0.9, 0.4, np.nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second, third = bootstrap.mean_intervals(values, bootstrap.Resampling())
    assert first["value"] == pytest.approx(0.7)
    assert first["low"] < 0.7 < first["high"]
    assert (second["value"], second["cases"]) == (pytest.approx(0.3), 2)
    assert third["value"] is None


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(6, 15), st.booleans())
def test_subject_intervals_equal_a_loop_of_scikit_learn_calls(seed, people, stratified):
    rng = np.random.default_rng(seed)
    subjects = np.r_[np.arange(people), rng.integers(0, people, 40)]
    of_person = np.r_[0, 0, 1, 1, rng.integers(0, 2, people - 4)]
    labels = of_person[subjects]
    scores = np.round(0.4 * labels + 0.6 * rng.random(len(labels)), 2)
    strata = labels if stratified else None
    found = intervals(BINARY, labels, scores, np.array([0.5]), 15, "fast", 3, True, subjects=subjects, strata=strata)
    resampler = bootstrap.Resampler(len(labels), "fast", 3, subjects, strata)
    drawn = {"auc": [], "mcc": [], "brier": []}
    for number in range(15):
        taken = np.repeat(np.arange(len(labels)), resampler.counts(number))
        y, p = labels[taken], scores[taken]
        drawn["auc"].append(roc_auc_score(y, p) if 0 < y.mean() < 1 else np.nan)
        drawn["mcc"].append(matthews_corrcoef(y, p > 0.5) if 0 < y.mean() < 1 else np.nan)
        drawn["brier"].append(brier_score_loss(y, p))
    for name, values in drawn.items():
        ends = np.nanquantile(values, [0.025, 0.975])
        np.testing.assert_allclose([found[name]["low"], found[name]["high"]], ends, atol=1e-9, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 20))
def test_means_over_cases_equal_a_loop(seed, cases):
    rng = np.random.default_rng(seed)
    values = rng.random((cases, 2))
    values[rng.random((cases, 2)) < 0.3] = np.nan
    values[0] = 0.5
    subjects = rng.integers(0, 4, cases)
    resampler = bootstrap.Resampler(cases, "fast", 5, subjects)
    drawn = []
    for number in range(30):
        taken = values[np.repeat(np.arange(cases), resampler.counts(number))]
        drawn.append([np.nanmean(column) if np.isfinite(column).any() else np.nan for column in taken.T])
    for k, entry in enumerate(bootstrap.mean_intervals(values, bootstrap.Resampling("fast", 30, 5), subjects)):
        assert entry["value"] == pytest.approx(np.nanmean(values[:, k]))
        if len(np.unique(subjects[np.isfinite(values[:, k])])) == 1:
            assert entry["low"] is None and "gives no interval" in entry["reason"]
            continue
        np.testing.assert_allclose(
            [entry["low"], entry["high"]], np.nanquantile(np.array(drawn)[:, k], [0.025, 0.975])
        )


def test_one_subject_alone_has_no_interval():
    labels, scores = np.arange(20) % 2, np.random.default_rng(0).random((20, 1))
    found = intervals(BINARY, labels, scores, np.full(1, 0.5), 20, "fast", subjects=np.zeros(20))
    assert all(
        entry["low"] is None and entry["high"] is None and entry["value"] is not None for entry in found.values()
    )
    assert "gives no interval" in found["auc"]["reason"]


def lone_splits():
    """Splits of each kind with a class of one case, with scores that classify it well."""
    rng = np.random.default_rng(3)
    binary = np.r_[1, np.zeros(20, int)]
    three = np.r_[2, np.arange(20) % 2]
    several = np.c_[binary, np.arange(21) % 2]
    return [
        (BINARY, binary, rng.random(21), binary, {"auc", "mcc", "balanced_accuracy", "f1_macro", "f1_micro"}),
        (BINARY, 1 - binary, rng.random(21), 1 - binary, {"auc", "mcc", "balanced_accuracy", "specificity"}),
        (MULTICLASS, three, rng.random((21, 3)), three, {"auc", "balanced_accuracy", "f1_macro"}),
        (MULTILABEL, several, rng.random((21, 2)), None, {"auc", "mcc", "balanced_accuracy", "f1_macro"}),
    ]


@pytest.mark.parametrize("kind, labels, scores, strata, without", lone_splits())
def test_a_class_of_one_case_gives_no_interval(kind, labels, scores, strata, without):
    """In stratified resamples the one case is always present, so intervals once had no width or too little."""
    half = np.full(scores.shape[-1] if scores.ndim == 2 else 1, 0.5)
    for drawn in (None, strata):
        found = intervals(kind, labels, scores, half, 50, "fast", extra=True, strata=drawn)
        lone = {name for name, entry in found.items() if entry["low"] is None and entry["high"] is None}
        assert without <= lone and not {"accuracy", "brier", "ece"} & lone
        assert all(found[name]["value"] is not None for name in lone)
        assert all("one case or subject alone" in found[name]["reason"] for name in lone)
        said = bootstrap.interval_notes(found, 50)
        assert len(said) == 1 and re.match("no interval of .*auc", said[0]) and said[0].endswith(tuple("012"))


def test_a_class_of_one_subject_gives_no_interval_and_of_two_does():
    labels, scores = np.r_[np.ones(6, int), np.zeros(20, int)], np.random.default_rng(1).random(26)
    others = np.arange(10, 30)
    for people, known in ((np.zeros(6), False), (np.arange(6) // 3, True)):
        found = intervals(BINARY, labels, scores, np.full(1, 0.5), 50, "fast", subjects=np.r_[people, others])
        assert (found["auc"]["low"] is not None) == known


def test_the_authors_protocol_keeps_its_intervals_with_one_case_in_a_class():
    labels = np.r_[1, np.zeros(20, int)]
    found = intervals(BINARY, labels, np.random.default_rng(1).random(21), np.full(1, 0.5))
    assert found["recall_macro"]["low"] is not None and found["auc"]["low"] is not None
    assert bootstrap.interval_notes(found, 1000)[0].startswith("no interval of auc: ")
