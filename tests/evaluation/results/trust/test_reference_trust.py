"""Selective risk, conformal sets and group gaps against MAPIE, crepes and fairlearn (tests/reference/trust_*)."""

import json

import numpy as np
import pytest
from scipy.special import entr

from evaluation.results.trust import conformal, groups
from evaluation.results.trust.selective import risk_curve

COVERAGES = (0.8, 0.9, 0.95)
FAIRLEARN = ("tpr", "fpr", "selection_rate", "accuracy", "balanced_accuracy")


@pytest.fixture
def cases(reference_dir):
    paths = sorted(reference_dir.glob("trust_*.json"))
    assert paths
    return [(json.loads(path.read_text()), dict(np.load(path.with_suffix(".npz")))) for path in paths]


def stored_sets(arrays, name):
    return np.unpackbits(arrays[name], axis=1)[:, : arrays["test_scores"].shape[1]].astype(bool)


def agrees(sets, labels, numbers):
    measured = conformal.measure_sets(sets, labels)
    assert measured["coverage"] == pytest.approx(numbers["coverage"], abs=1e-6)
    assert measured["mean_size"] == pytest.approx(numbers["mean_size"], abs=1e-6)
    if "empty" in numbers:
        assert measured["empty"] == numbers["empty"]
        assert measured["class_coverage"] == pytest.approx(numbers["per_class_coverage"], abs=1e-6)


def test_reference_lac(cases):
    for numbers, arrays in cases:
        calibration = conformal.Calibration(arrays["cal_scores"], arrays["cal_labels"])
        for coverage in COVERAGES:
            sets = conformal.lac(calibration, arrays["test_scores"], coverage)
            agrees(sets, arrays["test_labels"], numbers["conformal_marginal"][f"lac_{coverage:g}"])
            agrees(sets, arrays["test_labels"], numbers["crepes"][f"marginal_{coverage:g}"])
            own = conformal.true_scores(conformal.hinge_scores(arrays["cal_scores"]), arrays["cal_labels"])
            limit = numbers["conformal_marginal"][f"hinge_threshold_{coverage:.2f}"]["threshold"]
            assert conformal.threshold(own, coverage) == pytest.approx(limit, abs=1e-7)
            if coverage == 0.9:
                np.testing.assert_array_equal(sets, stored_sets(arrays, "set_lac_0.9"))


def test_reference_class_conditional(cases):
    for numbers, arrays in cases:
        calibration = conformal.Calibration(arrays["cal_scores"], arrays["cal_labels"])
        own = conformal.true_scores(conformal.hinge_scores(arrays["cal_scores"]), arrays["cal_labels"])
        hinge = conformal.hinge_scores(arrays["test_scores"])
        p_values = conformal.class_p_values(own, arrays["cal_labels"], hinge)
        np.testing.assert_allclose(p_values, arrays["p_values_class_conditional"], atol=1e-6)
        for coverage in COVERAGES:
            sets = conformal.class_conditional(calibration, arrays["test_scores"], coverage)
            agrees(sets, arrays["test_labels"], numbers["crepes"][f"class_conditional_{coverage:g}"])


def sets_with_last(sums, limit):
    """MAPIE's sets that always contain the label at which `sums` (scores without noise) reach the limit."""
    beyond = np.where(sums >= limit - conformal.TOLERANCE, sums, np.inf).min(axis=1, keepdims=True)
    return conformal.sets_below(sums, beyond)


def cumulated(scores, calibration, labels, test, coverage, kind):
    """Sets as MAPIE draws them: u is RandomState(0)'s, the same sequence for calibration and prediction."""
    noise = [np.random.RandomState(0).uniform(size=len(part)) for part in (calibration, test)]
    limit = conformal.threshold(conformal.true_scores(scores(calibration, noise[0]), labels), coverage)
    if kind == "True":
        return limit, sets_with_last(scores(test, np.zeros(len(test))), limit)
    return limit, conformal.sets_below(scores(test, noise[1]), limit)


@pytest.mark.parametrize("kind", ["True", "randomized"])
def test_reference_aps(cases, kind):
    for numbers, arrays in cases:
        for coverage in COVERAGES:
            row = numbers["conformal_marginal"][f"aps_{coverage:g}_{kind}"]
            given = (arrays["cal_scores"], arrays["cal_labels"], arrays["test_scores"])
            limit, sets = cumulated(conformal.CumulativeScores(), *given, coverage, kind)
            assert limit == pytest.approx(row["quantile"][0], abs=1e-7)
            agrees(sets, arrays["test_labels"], row)
            if (kind, coverage) == ("True", 0.9):
                np.testing.assert_array_equal(sets, stored_sets(arrays, "set_aps_0.9_True"))


@pytest.mark.parametrize("kind", ["True", "randomized"])
def test_reference_raps(cases, kind):
    """Sets at MAPIE's threshold and penalty, which it chooses on a random fifth of the calibration cases."""
    for numbers, arrays in cases:
        for coverage in COVERAGES:
            row = numbers["conformal_marginal"][f"raps_{coverage:g}_{kind}"]
            scores, test = conformal.CumulativeScores(row["lambda_star"], row["k_star"]), arrays["test_scores"]
            limit = row["quantile"][0]
            sets = sets_with_last(scores(test, np.zeros(len(test))), limit)
            if (kind, coverage) == ("True", 0.9):
                np.testing.assert_array_equal(sets, stored_sets(arrays, "set_raps_0.9_True"))
            if kind == "randomized":
                if sets.sum(axis=1).max() > row["k_star"] + 1:  # there MAPIE's V divides by less than the paper's
                    continue
                sets = conformal.sets_below(scores(test, np.random.RandomState(0).uniform(size=len(test))), limit)
            agrees(sets, arrays["test_labels"], row)


def test_reference_selective_risk(cases):
    for numbers, arrays in cases:
        expected, scores = numbers["selective"], arrays["test_scores"]
        correct = scores.argmax(axis=1) == arrays["test_labels"]
        curve = risk_curve(scores.max(axis=1), correct)
        assert curve.error == pytest.approx(expected["error"], abs=1e-6)
        assert curve.aurc == pytest.approx(expected["aurc_msp"], abs=1e-6)
        assert curve.optimal_aurc == pytest.approx(expected["optimal_aurc"], abs=1e-6)
        assert curve.excess_aurc == pytest.approx(expected["e_aurc"], abs=1e-6)
        assert curve.augrc == pytest.approx(expected["augrc"], abs=1e-6)
        entropy = risk_curve(-entr(scores).sum(axis=1), correct)
        assert entropy.aurc == pytest.approx(expected["aurc_entropy"], abs=1e-6)
        for coverage, risk in expected["risk_at_coverage"].items():
            assert curve.risk_at(float(coverage)) == pytest.approx(risk, abs=1e-6)
        for risk, coverage in expected["coverage_at_risk"].items():
            assert curve.coverage_at(float(risk)) == pytest.approx(coverage, abs=1e-6)


@pytest.mark.parametrize("by", ["group", "sex"])
def test_reference_group_gaps(cases, by):
    for numbers, arrays in cases:
        expected = numbers["subgroups"][by]
        labels, scores = (arrays["test_labels"] == 0).astype(int), arrays["test_scores"][:, 0]
        gaps = groups.group_aucs(labels, scores, arrays[f"test_{by}"])
        for name, row in expected["auc_delong"].items():
            assert gaps["groups"][name]["auc"] == pytest.approx(row["auc"], abs=1e-6)
            assert gaps["groups"][name]["variance"] == pytest.approx(row["variance"], rel=1e-6)
            assert gaps["groups"][name]["positives"] == row["positives"]
        pair = expected["best_minus_worst_delong"]
        assert (gaps["best"], gaps["worst"]) == (str(pair["best"]), str(pair["worst"]))
        assert gaps["gap"] == pytest.approx(pair["gap"], abs=1e-6)
        assert [gaps["low"], gaps["high"]] == pytest.approx(pair["ci95"], abs=1e-4)
        for name, row in groups.shifted_aucs(labels, scores, arrays[f"test_{by}"]).items():
            if by == "group":
                assert row == pytest.approx(expected["borkan"][name], abs=1e-6)


@pytest.mark.parametrize("by", ["group", "sex"])
def test_reference_group_rates(cases, by):
    for numbers, arrays in cases:
        expected = numbers["subgroups"][by]
        labels = (arrays["test_labels"] == 0).astype(int)
        decisions = (arrays["test_scores"][:, 0] >= numbers["subgroups"]["threshold"] - 5e-9).astype(int)
        rates = groups.group_rates(labels, decisions, arrays[f"test_{by}"])
        gaps = groups.disparities(rates)
        for name in FAIRLEARN:
            assert rates[""][name] == pytest.approx(expected["overall"][name], abs=1e-6)
            for group, value in expected["by_group"][name].items():
                assert rates[group][name] == pytest.approx(value, abs=1e-6)
            for measure in ("difference", "difference_to_overall", "ratio"):
                assert gaps[name][measure] == pytest.approx(expected[measure][name], abs=1e-6)
        assert gaps["selection_rate"]["difference"] == pytest.approx(
            expected["demographic_parity_difference"], abs=1e-6
        )
        odds = max(gaps["tpr"]["difference"], gaps["fpr"]["difference"])
        assert odds == pytest.approx(expected["equalized_odds_difference"], abs=1e-6)
        tpr = {group: row["tpr"] for group, row in rates.items() if group and row["tpr"] is not None}
        from_median = {group: value - np.median(list(tpr.values())) for group, value in tpr.items()}
        assert from_median == pytest.approx(expected["chexclusion_tpr_minus_median"], abs=1e-6)
