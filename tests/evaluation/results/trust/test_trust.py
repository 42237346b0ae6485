"""Selective risk, conformal sets and group gaps: values that follow without a reference."""

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from evaluation.results.trust import conformal, groups
from evaluation.results.trust.bands import bands
from evaluation.results.trust.selective import risk_curve


def test_ties_count_as_their_mean_whatever_their_order():
    confidence = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    for correct in ([1, 1, 1, 0, 0], [1, 0, 1, 1, 0]):
        curve = risk_curve(confidence, np.array(correct))
        np.testing.assert_allclose(curve.errors, [0, 1 / 3, 2 / 3, 1, 2])
    perfect = risk_curve(np.array([3, 2, 1.0]), np.array([1, 1, 0]))
    assert perfect.excess_aurc == pytest.approx(0)
    assert perfect.augrc == pytest.approx(1 / 9)


def test_a_curve_needs_one_decision_for_each_confidence():
    with pytest.raises(UserError, match="one for each case"):
        risk_curve(np.zeros(3), np.zeros(2))


def test_sets_have_the_promised_coverage_on_exchangeable_cases():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 4))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    calibration = conformal.Calibration(probabilities[:2000], labels[:2000])
    for name, method in conformal.METHODS.items():
        measured = conformal.measure_sets(method.make(calibration, probabilities[2000:], 0.9), labels[2000:])
        low, high = conformal.coverage_range(method.shares(labels[:2000], labels[2000:], 0.9), tail=1e-4)
        assert 0.8 < low <= measured["coverage"] <= high < 0.95, name
        assert measured["low"] < measured["coverage"] < measured["high"]
        if name == "class_conditional":
            assert min(measured["class_coverage"]) > 0.85


def test_too_few_calibration_cases_promise_nothing():
    assert conformal.threshold(np.array([0.1, 0.2]), 0.9) == np.inf
    calibration = conformal.Calibration(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))
    for method in (conformal.lac, conformal.aps, conformal.class_conditional):
        assert method(calibration, np.array([[0.99, 0.01]]), 0.9).all()


def test_clopper_pearson_at_the_ends():
    assert conformal.clopper_pearson(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    assert conformal.clopper_pearson(10, 10) == pytest.approx((0.6915, 1), abs=1e-4)


def grouped_scores(separation):
    rng = np.random.default_rng(1)
    labels = np.tile([0, 1], 60)
    names = np.repeat(["a", "b", "few"], [50, 50, 20])
    scores = rng.normal(size=120) + labels * np.where(names == "a", separation, 0.5)
    return labels, scores, names


def test_groups_with_fewer_than_ten_positives_have_no_auc():
    labels, scores, names = grouped_scores(2.0)
    labels = np.where((names == "few") & (np.arange(120) > 110), 0, labels)
    gaps = groups.group_aucs(labels, scores, names)
    assert "6 positives" in gaps["groups"]["few"]["reason"] or "5 positives" in gaps["groups"]["few"]["reason"]
    assert (gaps["worst"], gaps["best"]) == ("b", "a")
    assert len(gaps["pairs"]) == 1
    assert gaps["low"] < gaps["gap"] < gaps["high"]
    assert "gap" not in groups.group_aucs(labels, scores, np.where(names == "few", "few", "few"))


def test_an_auc_of_one_has_an_interval():
    labels, scores, names = grouped_scores(20.0)
    row = groups.group_aucs(labels, scores, names)["groups"]["a"]
    assert (row["auc"], row["high"]) == (1.0, 1.0)
    assert 0.8 < row["low"] < 0.99
    low, high = groups.newcombe(0.0, 25, 25)
    assert low == 0.0
    assert high == pytest.approx(1 - row["low"], abs=1e-6)


def test_cases_of_one_subject_widen_the_interval():
    labels, scores, names = grouped_scores(1.0)
    thrice = [np.repeat(each, 3) for each in (labels, scores, names)]
    alone = groups.group_aucs(*thrice)["groups"]["a"]
    together = groups.group_aucs(*thrice, subjects=np.repeat(np.arange(120), 3))["groups"]["a"]
    once = groups.group_aucs(labels, scores, names)["groups"]["a"]
    assert alone["variance"] < 0.5 * together["variance"]
    assert together["variance"] == pytest.approx(once["variance"], rel=0.1)


def test_columns_of_numbers_become_bands():
    ages = np.array(["3", "19.5", "20", "45", "61", "80", "99", "7", "33", "", "55"])
    found = bands("age", ages).tolist()
    assert found[:6] == ["below 20", "below 20", "20 to 40", "40 to 60", "60 to 80", "80 and over"]
    assert found[9] == "unknown"
    assert set(bands("dose", np.arange(100).astype(str))) == {
        "below 24.75", "24.75 to 49.5", "49.5 to 74.25", "74.25 and over"}  # fmt: skip
    assert bands("sex", np.array(["F", "M", ""])).tolist() == ["F", "M", "unknown"]


AGES = ["5", "25", "30", "45", "50", "61", "70", "77", "85", "90"]


@pytest.mark.parametrize("missing", ["nan", "NaN", "inf", "NA", "n/a", "None", " ", "?", "-1", "411"])
def test_a_missing_age_is_unknown_and_leaves_the_others_in_bands(missing):
    found = bands("age", np.array([*AGES, missing]))
    assert found[-1] == "unknown"
    assert found[:-1].tolist() == bands("age", np.array(AGES)).tolist() and found[0] == "below 20"
    assert (
        bands("dose", np.array([*AGES, "nan"]))[-1] == "unknown"
        and bands("sex", np.array(["F", "NA"]))[1] == "unknown"
    )


def test_age_strings_of_dicom_are_years_whatever_the_columns_spelling():
    values = np.array([*AGES, "005Y", "030M", "250M", "070W", "300D", "adult"])
    for name in ("age", "patient_age", "Patient Age", "PatientAge", "Patient's age (years)"):
        found = bands(name, values).tolist()
        assert found[len(AGES) :] == ["below 20", "below 20", "20 to 40", "below 20", "below 20", "adult"]
    assert bands("age", np.array(["005Y", "5", "30"])).tolist() == ["5", "5", "30"]
    for name in ("bone_age", "stage", "age_group"):
        assert bands(name, np.arange(90).astype(str))[0] == "below 22.25"


def test_groups_must_be_one_for_each_case():
    with pytest.raises(UserError, match="one value for each"):
        groups.group_aucs(np.array([0, 1]), np.array([0.1, 0.2]), np.array(["a"]))
