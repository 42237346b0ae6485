"""Every metric against scikit-learn, with ties, missing classes and weights; and what undefined ones say."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from biovfm_hf.errors import UserError
from evaluation.statistics import metrics, undefined
from evaluation.statistics.kinds import BINARY, MULTICLASS, MULTILABEL, ORDINAL
from evaluation.statistics.split import checked_split
from evaluation.statistics.undefined import notes, reasons

ON_ONE_CLASS = {"accuracy"}  # metrics that are defined on a binary split of one class


def point_metrics(task, labels, scores, thresholds, extra=False):
    return undefined.point_metrics(checked_split(task, labels, scores).decided_at(thresholds), extra)


@pytest.fixture(autouse=True)
def quiet_oracle():
    """scikit-learn warns where a metric is undefined; here that is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@st.composite
def columns_and_scores(draw, max_columns=4):
    """Labels and coarse scores (many ties) of up to four labels."""
    n = draw(st.integers(2, 40))
    columns = draw(st.integers(1, max_columns))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([2, 5, 1000]))
    labels = (rng.random((n, columns)) < draw(st.floats(0.05, 0.95))).astype(int)
    scores = (rng.integers(0, levels, (n, columns)) / (levels - 1)).astype(np.float32).astype(float)
    return labels, scores


@st.composite
def classes_and_scores(draw):
    """Class numbers and coarse scores; some classes may not occur."""
    n, classes = draw(st.integers(2, 50)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, draw(st.integers(1, classes)), n)
    scores = rng.integers(0, draw(st.sampled_from([2, 4, 1000])), (n, classes)) / 1000
    return labels, scores


def multilabel_oracle(labels, scores, thresholds):
    decided = (scores > thresholds).astype(int)
    each = range(labels.shape[1])
    mean = lambda f, chosen: np.mean([f(labels[:, k], chosen[:, k]) for k in each])  # noqa: E731
    return {
        "auc": mean(oracle.roc_auc_score, scores),
        "accuracy": mean(oracle.accuracy_score, decided),
        "balanced_accuracy": mean(oracle.balanced_accuracy_score, decided),
        "mcc": mean(oracle.matthews_corrcoef, decided),
        "f1_macro": np.mean([oracle.f1_score(labels[:, k], decided[:, k]) for k in each]),
        "f1_micro": oracle.f1_score(labels.ravel(), decided.ravel()),
        "recall_macro": np.mean([oracle.recall_score(labels[:, k], decided[:, k]) for k in each]),
        "recall_micro": oracle.recall_score(labels.ravel(), decided.ravel()),
        "average_precision": mean(oracle.average_precision_score, scores),
        "brier": mean(lambda y, p: oracle.brier_score_loss(y, p), scores),
        "specificity": np.mean([oracle.recall_score(labels[:, k], decided[:, k], pos_label=0) for k in each]),
        "sensitivity": np.mean([oracle.recall_score(labels[:, k], decided[:, k]) for k in each]),
    }


def multiclass_oracle(labels, scores):
    decided = scores.argmax(1)
    onehot = np.eye(scores.shape[1], dtype=int)[labels]
    return {
        "auc": np.mean([oracle.roc_auc_score(onehot[:, k], scores[:, k]) for k in range(scores.shape[1])]),
        "accuracy": oracle.accuracy_score(labels, decided),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, decided),
        "mcc": oracle.matthews_corrcoef(labels, decided),
        **{f"f1_{a}": oracle.f1_score(labels, decided, average=a) for a in ("macro", "micro")},
        **{f"recall_{a}": oracle.recall_score(labels, decided, average=a) for a in ("macro", "micro")},
        "brier": ((scores - onehot) ** 2).sum(1).mean(),
    }


def agree(found, expected, undefined):
    for name, value in expected.items():
        if name in undefined:
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(value, abs=1e-12), name


@settings(max_examples=20, deadline=None)
@given(columns_and_scores())
def test_multilabel_metrics_equal_scikit_learn(case):
    labels, scores = case
    thresholds = np.full(labels.shape[1], 0.4)
    found = point_metrics(MULTILABEL, labels, scores, thresholds, extra=True)
    undefined = reasons(checked_split(MULTILABEL, labels, scores))
    expected = multilabel_oracle(labels, scores, thresholds)
    assert not any(np.isnan(v) for k, v in expected.items() if k not in undefined)
    agree(found, expected, undefined)


@settings(max_examples=20, deadline=None)
@given(columns_and_scores(max_columns=1), st.sampled_from(["flat", "one", "two"]))
def test_binary_metrics_do_not_depend_on_the_shape_of_scores(case, shape):
    labels, scores = case
    shaped = {"flat": scores[:, 0], "one": scores, "two": np.column_stack([1 - scores, scores])}[shape]
    found = point_metrics(BINARY, labels[:, 0], shaped, np.array([0.4]))
    undefined = reasons(checked_split(BINARY, labels, scores))
    agree(found, {k: v for k, v in multilabel_oracle(labels, scores, 0.4).items() if k in metrics.names()}, undefined)


@settings(max_examples=20, deadline=None)
@given(classes_and_scores(), st.sampled_from([MULTICLASS, ORDINAL]))
def test_multiclass_metrics_equal_scikit_learn(case, task):
    labels, scores = case
    found = point_metrics(task, labels[:, None], scores, np.array([0.5]), extra=True)
    agree(found, multiclass_oracle(labels, scores), reasons(checked_split(task, labels, scores)))


@settings(max_examples=15, deadline=None)
@given(columns_and_scores(), st.integers(0, 2**32 - 1))
def test_weights_mean_repeats(case, seed):
    labels, scores = case
    counts = np.random.default_rng(seed).integers(0, 4, (len(labels), 2))
    counts[0] += 1
    thresholds = np.full(labels.shape[1], 0.4)
    weighted = metrics.Scorer(checked_split(MULTILABEL, labels, scores).decided_at(thresholds))(
        counts.astype(np.float32)
    )
    for draw in range(2):
        taken = np.repeat(np.arange(len(labels)), counts[:, draw])
        repeated = multilabel_oracle(labels[taken], scores[taken], thresholds)
        lacking = sorted(set(metrics.names()) - repeated.keys())
        assert not lacking, f"multilabel_oracle of this file lacks another library's value of: {', '.join(lacking)}"
        for name in metrics.names():
            np.testing.assert_allclose(weighted[name][draw], repeated[name], atol=1e-12, err_msg=name)


@settings(max_examples=30, deadline=None)
@given(classes_and_scores(), st.integers(0, 2**32 - 1))
def test_weights_mean_repeats_with_classes(case, seed):
    labels, scores = case
    counts = np.random.default_rng(seed).integers(0, 3, len(labels))
    counts[0] += 1
    scorer = metrics.Scorer(checked_split(MULTICLASS, labels, scores))
    weighted = scorer(counts[:, None].astype(np.float32))
    taken = np.repeat(np.arange(len(labels)), counts)
    for name, value in multiclass_oracle(labels[taken], scores[taken]).items():
        if name in metrics.names():
            np.testing.assert_allclose(weighted[name][0], value, atol=1e-12, err_msg=name)


def test_calibration_error_of_a_calibrated_and_an_overconfident_model():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(int)
    honest = point_metrics(BINARY, y, p, np.array([0.5]), extra=True)["ece"]
    pushed = point_metrics(BINARY, y, np.where(p > 0.5, 0.99, 0.01), np.array([0.5]), extra=True)["ece"]
    assert honest < 0.02
    assert pushed == pytest.approx(0.24, abs=0.02)


def test_calibration_error_by_hand():
    # 30 cases, 15 bins of 2 in order of score: in each bin the gap is |mean score - share of positives|.
    p = np.linspace(0.01, 0.99, 30)
    y = np.tile([0, 1, 1], 10)
    by_hand = np.mean([abs(p[i : i + 2].mean() - y[i : i + 2].mean()) for i in range(0, 30, 2)])
    assert point_metrics(BINARY, y, p, np.array([0.5]), extra=True)["ece"] == pytest.approx(by_hand)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([1, 2, 5, 1000]))
def test_calibration_error_does_not_depend_on_the_order_of_rows(seed, n, levels):
    rng = np.random.default_rng(seed)
    labels, scores = np.sort(rng.integers(0, 2, n)), rng.integers(0, levels + 1, n) / levels
    order = rng.permutation(n)
    found = [
        point_metrics(BINARY, labels[rows], scores[rows], np.array([0.5]), extra=True)["ece"]
        for rows in (slice(None), order)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_calibration_error_of_one_score_for_all_is_its_distance_from_the_share_of_positives():
    labels = np.repeat([0, 1], 100)
    assert point_metrics(BINARY, labels, np.full(200, 0.5), np.array([0.5]), extra=True)["ece"] == 0
    found = point_metrics(BINARY, labels, np.full(200, 0.75), np.array([0.5]), extra=True)["ece"]
    assert found == pytest.approx(0.25)


def test_logits_have_no_calibration_but_all_else():
    found = point_metrics(BINARY, np.array([0, 1, 1]), np.array([-3.0, 2.0, -1.0]), np.array([0.0]), extra=True)
    assert found["brier"] is None
    assert found["ece"] is None
    assert found["auc"] == 1.0


def test_a_split_of_one_class_leaves_ranking_undefined_and_says_why():
    split = checked_split(BINARY, np.zeros(5), np.linspace(0, 1, 5))
    found = point_metrics(BINARY, np.zeros(5), np.linspace(0, 1, 5), np.array([0.6]))
    assert found.keys() == set(metrics.names())
    defined = {name for name, value in found.items() if value is not None}
    new, gone = sorted(defined - ON_ONE_CLASS), sorted(ON_ONE_CLASS - defined)
    assert not new, f"{', '.join(new)}: add to ON_ONE_CLASS of this file, or give the metric the `needs` that it lacks"
    assert not gone, f"{', '.join(gone)}: remove from ON_ONE_CLASS of this file, or mend the metric's `needs`"
    assert found["accuracy"] == 0.6
    assert reasons(split)["auc"] == "every sample is of class 0"


def test_a_class_missing_from_test_is_named():
    labels, scores = np.array([0, 0, 2, 2]), np.eye(4)[[0, 1, 2, 2]]
    found = point_metrics(MULTICLASS, labels, scores, np.array([0.5]))
    assert found["auc"] is None
    assert found["balanced_accuracy"] == 0.75
    said = notes(checked_split(MULTICLASS, labels, scores))[0]
    assert "classes 1, 3" in said
    # As the note says: class 1, which is predicted once, counts for recall but not for balanced accuracy.
    assert found["recall_macro"] == pytest.approx((0.5 + 0 + 1) / 3) and found["f1_macro"] == pytest.approx(5 / 9)
    assert "macro F1 and recall also over classes that are predicted" in said


@pytest.mark.parametrize(
    ("task", "labels", "scores", "words"),
    [
        ("regression", [0, 1], [0.1, 0.2], "unknown task"),
        (BINARY, [0, 1], [0.1, np.nan], "not finite"),
        (BINARY, [0, 1], [0.1, np.inf], "not finite"),
        (BINARY, [0, 1, 1], [0.1, 0.2], "3 rows"),
        (BINARY, [0, 2], [0.1, 0.2], "0 to 1"),
        (BINARY, [0, 0.5], [0.1, 0.2], "fractions"),
        (BINARY, [[0, 1], [1, 0]], [0.1, 0.2], "one class index"),
        (BINARY, [0, 1], [[0.1] * 3] * 2, "3 columns"),
        (BINARY, [], [], "empty"),
        (BINARY, ["a", "b"], [0.1, 0.2], "give numbers"),
        (MULTICLASS, [0, 3], [[0.1, 0.2, 0.7]] * 2, "0 to 2"),
        (MULTICLASS, [0, 1], [0.1, 0.2], "one column per class"),
        (MULTICLASS, [0, -1], [[0.1, 0.9]] * 2, "-1"),
        (MULTILABEL, [[0, 1]], [[0.1, 0.2, 0.3]], "differ"),
        (MULTILABEL, [0, 1], [0.1, 0.2], "multi-label"),
        (MULTILABEL, np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), "shape"),
    ],
)
def test_unfit_input_is_refused_with_the_reason(task, labels, scores, words):
    with pytest.raises(UserError, match=words):
        checked_split(task, np.array(labels), np.array(scores))


def test_a_wrong_number_of_thresholds_is_refused():
    with pytest.raises(UserError, match="3 thresholds for 1 labels"):
        point_metrics(BINARY, np.array([0, 1]), np.array([0.1, 0.9]), np.zeros(3))
