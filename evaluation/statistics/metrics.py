"""Metrics of scores, each defined once, for point values and weighted resamples alike; those of masks: `masks`.

Every metric takes samples with integer weights: a column of ones gives the point value, a column of draw counts gives
one bootstrap resample, and many columns give many resamples at the cost of a matrix product. Averages follow
scikit-learn and the MedMNIST evaluator: AUC is the unweighted one-vs-rest mean; accuracy, balanced accuracy and MCC of
multi-label tasks are means over labels; recall and F1 of binary tasks are those of the positive class.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from functools import cached_property
from typing import ClassVar

import numpy as np

from biovfm_hf.errors import UserError

from .kinds import BINARY, MULTICLASS, MULTILABEL, ORDINAL
from .ranking import RankedLabel, average_precision, roc_auc
from .split import ScoredSplit

ECE_BINS = 15


class Needs(Flag):
    """The cases a split must have for a metric to be defined, for every label, or in binary and multi-class tasks."""

    POSITIVES = auto()  # positives of every label
    NEGATIVES = auto()
    ANY_POSITIVE = auto()  # positives of some label
    EVERY_CLASS = auto()  # multi-class tasks: a case of each class
    TWO_CLASSES = auto()  # multi-class tasks: cases of more than one class
    PROBABILITIES = auto()  # scores within 0..1
    EQUAL_CLASSES = auto()  # multi-class tasks: classes weigh the same, so a class with one case gives no interval


NOTHING = Needs(0)


@dataclass(frozen=True)
class Metric:
    """A metric of scores. After `register`, records, tables and comparisons have it.

    Attributes:
        name: name in records.
        title: title in tables.
        value: function that gives its values (B,) for samples under B weightings.
        needs: what a split must contain for the metric to be defined.
        extra: whether `biovfm score` computes it on request only.
        compared: whether models are compared by it.
        column: whether the tables have a column for it; columns stand in the order of registration.
        averaged: whether the tables of means have it too.
        lowest: lowest possible value.
        highest: highest possible value; every metric of scores is a share or a correlation.
        percent: whether tables show it in percent.
        lower_is_better: whether lower values are better.
        hub: its id among the Hub's metrics, "" if that is its name.
    """

    highest: ClassVar[float | None] = 1.0
    percent: ClassVar[bool] = True
    name: str
    title: str
    value: Callable[["Weighted"], np.ndarray]
    needs: Needs = NOTHING
    extra: bool = False
    compared: bool = False
    column: bool = False
    averaged: bool = True
    lowest: float = 0.0
    lower_is_better: bool = False
    hub: str = ""


Arrays = Mapping[str, np.ndarray]  # arrays stored beside a record, by name


@dataclass(frozen=True)
class MaskMetric:
    """A metric of masks, computed from the arrays beside a record; `masks` defines all of them.

    Attributes:
        name: name in records.
        title: title in tables.
        reads: name of the array it needs; records without the array lack the metric.
        cases: function that gives its value (cases,) for each case, NaN where undefined; the metric is their mean.
        pooled: instead of `cases`, function that gives its value (...) from voxel counts (..., classes, 4) of all
            cases.
        compared: whether models are compared by it.
        column: whether the tables have a column for it; columns stand in the order of registration.
        averaged: whether the tables of means have it too.
        lowest: lowest possible value.
        highest: highest possible value, None if there is none.
        percent: whether it is a share, which tables show in percent.
        lower_is_better: whether lower values are better.
        hub: its id among the Hub's metrics, "" if that is its name.
    """

    name: str
    title: str
    reads: str
    cases: Callable[[Arrays], np.ndarray] | None = None
    pooled: Callable[[np.ndarray], np.ndarray] | None = None
    compared: bool = True
    column: bool = False
    averaged: bool = True
    lowest: float = 0.0
    highest: float | None = 1.0
    percent: bool = True
    lower_is_better: bool = False
    hub: str = ""


@dataclass(frozen=True)
class BoxFigure:
    """A figure of detected boxes, one of `detection.NAMES`."""

    highest: ClassVar[float | None] = 1.0
    percent: ClassVar[bool] = True
    lower_is_better: ClassVar[bool] = False
    name: str
    title: str
    compared: bool = True
    column: bool = False
    averaged: bool = True
    lowest: float = 0.0
    hub: str = ""


METRICS: dict[str, Metric] = {}
MASK_METRICS: dict[str, MaskMetric] = {}
BOX_FIGURES: dict[str, BoxFigure] = {}


def register(metric: Metric | MaskMetric | BoxFigure) -> None:
    """Add a metric to the registry.

    Raises:
        ValueError: another metric has its name.
    """
    if find_metric(metric.name) is not None:
        raise ValueError(f"there is a metric {metric.name} already")
    if isinstance(metric, Metric):
        METRICS[metric.name] = metric
    elif isinstance(metric, MaskMetric):
        MASK_METRICS[metric.name] = metric
    else:
        BOX_FIGURES[metric.name] = metric


def names(extra: bool = False) -> tuple[str, ...]:
    """Names of the metrics of scores, with or without those on request."""
    return tuple(name for name, metric in METRICS.items() if extra or not metric.extra)


def find_metric(name: str) -> Metric | MaskMetric | BoxFigure | None:
    """The entry of a metric; None if it is not registered, such as the Dice of one class."""
    return METRICS.get(name) or MASK_METRICS.get(name) or BOX_FIGURES.get(name)


def is_lower_better(name: str) -> bool:
    """Whether lower values of a metric are better; false for metrics that are not registered."""
    metric = find_metric(name)
    return metric is not None and metric.lower_is_better


def titles(names: Collection[str]) -> dict[str, str]:
    """Titles of the metrics that are registered, by name: first those with a column in tables, in its order."""
    entries = [entry for entry in _registered() if entry.name in names]
    return {entry.name: entry.title for entry in sorted(entries, key=lambda entry: not entry.column)}


def hub_names(names: Collection[str]) -> dict[str, str]:
    """Name -> id among the Hub's metrics, of those that the Hub calls otherwise."""
    return {entry.name: entry.hub for entry in _registered() if entry.name in names and entry.hub}


def _registered() -> list[Metric | MaskMetric | BoxFigure]:
    return [*METRICS.values(), *MASK_METRICS.values(), *BOX_FIGURES.values()]


def table_metrics(averaged: bool = False) -> list[str]:
    """The metrics that tables have columns for, in order; with `averaged`, only those in the tables of means."""
    return [entry.name for entry in _registered() if entry.column and (entry.averaged or not averaged)]


def predict(split: ScoredSplit) -> np.ndarray:
    """Decisions: argmax (n,) for multi-class tasks, otherwise `score > threshold` per label, (n, L) of 0/1.

    Raises:
        UserError: the split needs thresholds and has none.
    """
    if split.task not in (BINARY, MULTILABEL):
        return split.scores.argmax(axis=1)
    if split.thresholds is None:
        raise UserError("this split has no decision thresholds; choose them on validation")
    return (split.scores > split.thresholds).astype(np.int64)


class Scorer:
    """All metrics of one split under its thresholds, ready to be evaluated for many weightings of its samples.

    Everything that does not depend on the weights (decisions, sort orders, calibration bins) is prepared once.

    Args:
        split: checked labels and scores, with thresholds.
        extra: also compute the metrics that are marked `extra`.
    """

    def __init__(self, split: ScoredSplit, extra: bool = False):
        self.split, self.names = split, names(extra)
        decisions = predict(split)
        columns = split.columns
        if split.task in (BINARY, MULTILABEL):
            self.cells = _cell_indicators(columns, decisions)
            self.classes = 0
        else:
            self.classes = split.scores.shape[1]
            self.cells = _sparse_cells(split.labels, decisions, self.classes)
        self.ranked = [RankedLabel(columns[:, k], split.scores[:, k]) for k in range(columns.shape[1])]
        calibrated = any(Needs.PROBABILITIES in METRICS[name].needs for name in self.names)
        self.calibration = _linear_terms(split) if calibrated else None

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Evaluate the metrics for weights (n, B), whole numbers in float32. Returns {name: (B,) float64}.

        A ratio with denominator 0 follows scikit-learn: 0 for recall, F1 and MCC, NaN for AUC and average precision.
        `reasons` names the metrics that the split as a whole leaves undefined.
        """
        weighted = Weighted(self, weights)
        return {name: METRICS[name].value(weighted) for name in self.names}

    def defined(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """As `__call__`, but NaN where the weighted samples lack what a metric needs, as `reasons` says of a split."""
        drawn = self.split.columns.T.astype(weights.dtype) @ weights
        empty, full = drawn == 0, drawn == weights.sum(axis=0)
        if self.classes:
            lacking = {Needs.EVERY_CLASS: empty.any(axis=0), Needs.TWO_CLASSES: full.any(axis=0)}
        else:
            lacking = {
                Needs.POSITIVES: empty.any(axis=0),
                Needs.NEGATIVES: full.any(axis=0),
                Needs.ANY_POSITIVE: empty.all(axis=0),
            }
        values = self(weights)
        for need, where in lacking.items():
            for name in self.names:
                if need in METRICS[name].needs:
                    values[name] = np.where(where, np.nan, values[name])
        return values


class Weighted:
    """The samples of a split under weights (n, B): the inputs of metrics, each computed once when needed."""

    def __init__(self, scorer: Scorer, weights: np.ndarray):
        self.scorer, self.split, self.weights = scorer, scorer.split, weights

    @cached_property
    def counts(self) -> np.ndarray:
        """Weighted counts: (B, L, 4) of tp, fp, fn, tn, or (B, C, C) confusion matrices (rows are the truth)."""
        classes, weights = self.scorer.classes, self.weights
        if classes:
            cells = np.asarray(self.scorer.cells @ weights, dtype=np.float64)
            return cells.T.reshape(-1, classes, classes)
        cells = np.asarray(weights.T @ self.scorer.cells, dtype=np.float64).reshape(weights.shape[1], -1, 3)
        total = weights.sum(axis=0, dtype=np.float64)[:, None]
        return np.concatenate([cells, (total - cells.sum(axis=2))[:, :, None]], axis=2)

    @cached_property
    def decided(self) -> dict[str, np.ndarray]:
        """Metrics from the counts: `binary_metrics` or `multiclass_metrics`."""
        return multiclass_metrics(self.counts) if self.scorer.classes else binary_metrics(self.counts)

    @cached_property
    def rates(self) -> dict[str, np.ndarray]:
        """Sensitivity and specificity."""
        return _rates(self.counts, multiclass=bool(self.scorer.classes))

    def mean_over_labels(self, rank_metric: Callable[[RankedLabel, np.ndarray], np.ndarray]) -> np.ndarray:
        """The unweighted mean (B,) of a rank metric over labels, or over classes as one-vs-rest."""
        return np.stack([rank_metric(ranked, self.weights) for ranked in self.scorer.ranked]).mean(axis=0)

    @cached_property
    def calibration(self) -> dict[str, np.ndarray]:
        """Brier score and expected calibration error; NaN if the scores are not probabilities."""
        if self.scorer.calibration is None:
            undefined = np.full(self.weights.shape[1], np.nan)
            return {"brier": undefined, "ece": undefined}
        squared, gaps = self.scorer.calibration
        total = self.weights.sum(axis=0, dtype=np.float64)
        ece = [np.abs(np.asarray(gap @ self.weights, dtype=np.float64)).sum(axis=0) / total for gap in gaps]
        return {"brier": (squared @ self.weights) / total, "ece": np.mean(ece, axis=0)}


def _cell_indicators(truth: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """(n, L * 3) float32 indicators of true positive, false positive, false negative."""
    cells = np.stack([truth & decisions, (1 - truth) & decisions, truth & (1 - decisions)], axis=2)
    return cells.reshape(len(truth), -1).astype(np.float32)


def _sparse_cells(truth: np.ndarray, decisions: np.ndarray, classes: int):
    """(C * C, n) sparse indicator of each sample's confusion cell."""
    from scipy.sparse import csr_matrix

    rows = truth * classes + decisions
    return csr_matrix((np.ones(len(truth), np.float32), (rows, np.arange(len(truth)))), shape=(classes**2, len(truth)))


def _ratio(top: np.ndarray, bottom: np.ndarray, empty: float = 0.0) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, empty), where=bottom != 0)


def binary_metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of thresholded labels from counts (..., L, 4) of tp, fp, fn, tn; each (...,).

    Balanced accuracy averages the recalls of the classes that occur (Brodersen et al. 2010). MCC is 0 if its
    denominator is 0 (Matthews 1975), as in scikit-learn.
    """
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    total = tp + fp + fn + tn
    both = np.stack([_ratio(tp, tp + fn, np.nan), _ratio(tn, tn + fp, np.nan)])
    seen = ~np.isnan(both)
    balanced = np.where(seen, both, 0).sum(axis=0) / seen.sum(axis=0)
    mcc = _mcc(tp + tn, total, [tp + fn, tn + fp], [tp + fp, tn + fn])
    return {
        "accuracy": ((tp + tn) / total).mean(axis=-1),
        "balanced_accuracy": balanced.mean(axis=-1),
        "mcc": mcc.mean(axis=-1),
        "f1_macro": _ratio(2 * tp, 2 * tp + fp + fn).mean(axis=-1),
        "f1_micro": _ratio(2 * tp.sum(-1), (2 * tp + fp + fn).sum(-1)),
        "recall_macro": _ratio(tp, tp + fn).mean(axis=-1),
        "recall_micro": _ratio(tp.sum(-1), (tp + fn).sum(-1)),
    }


def multiclass_metrics(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of argmax decisions from confusion matrices (..., C, C), rows the truth; each (...,).

    As in scikit-learn, macro recall and F1 average over the classes that occur in truth or decisions, balanced
    accuracy over those in the truth, and MCC is Gorodkin's R_K (2004).
    """
    truth, decided = confusion.sum(-1), confusion.sum(-2)
    correct = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = truth.sum(-1)
    accuracy = correct.sum(-1) / total
    recall = _ratio(correct, truth)
    present = (truth + decided) > 0
    return {
        "accuracy": accuracy,
        "balanced_accuracy": (recall * (truth > 0)).sum(-1) / (truth > 0).sum(-1),
        "mcc": _mcc(correct.sum(-1), total, list(np.moveaxis(truth, -1, 0)), list(np.moveaxis(decided, -1, 0))),
        "f1_macro": _ratio(2 * correct, truth + decided).sum(-1) / present.sum(-1),
        "f1_micro": accuracy,
        "recall_macro": recall.sum(-1) / present.sum(-1),
        "recall_micro": accuracy,
    }


def _mcc(correct: np.ndarray, total: np.ndarray, truth: list[np.ndarray], decided: list[np.ndarray]) -> np.ndarray:
    """Matthews correlation from marginal counts; integers until the last division, so that ties stay ties."""
    dot = sum(t * p for t, p in zip(truth, decided, strict=True))
    spread = (total**2 - sum(p * p for p in decided)) * (total**2 - sum(t * t for t in truth))
    return _ratio(correct * total - dot, np.sqrt(spread))


def _rates(counts: np.ndarray, multiclass: bool) -> dict[str, np.ndarray]:
    """Sensitivity and specificity: means over labels, or over classes as one-vs-rest."""
    if multiclass:
        tp = np.diagonal(counts, axis1=-2, axis2=-1)
        fn, fp = counts.sum(-1) - tp, counts.sum(-2) - tp
        tn = counts.sum((-2, -1))[..., None] - tp - fn - fp
    else:
        tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    return {
        "sensitivity": _ratio(tp, tp + fn, np.nan).mean(axis=-1),
        "specificity": _ratio(tn, tn + fp, np.nan).mean(axis=-1),
    }


def _linear_terms(split: ScoredSplit):
    """Brier's squared error per sample, and per label the sparse matrix whose |product| with weights sums to ECE."""
    if split.scores.min() < 0 or split.scores.max() > 1:
        return None
    errors = (split.scores - split.columns) ** 2
    if split.task in (BINARY, MULTILABEL):
        pairs = [(split.scores[:, k], split.labels[:, k]) for k in range(split.scores.shape[1])]
        squared = errors.mean(axis=1)
    else:
        top = split.scores.argmax(axis=1)
        pairs = [(split.scores.max(axis=1), (top == split.labels).astype(np.int64))]
        squared = errors.sum(axis=1)
    return squared, [_calibration_gaps(confidence, correct) for confidence, correct in pairs]


def _calibration_gaps(confidence: np.ndarray, correct: np.ndarray):
    from scipy.sparse import csr_matrix

    n = len(confidence)
    _, group, sizes = np.unique(confidence, return_inverse=True, return_counts=True)
    first = np.cumsum(sizes) - sizes
    # Equal scores share the bin of their middle rank: bins cut by row number would depend on the file's order.
    rows = ((2 * first + sizes - 1) * ECE_BINS // (2 * n))[group.reshape(-1)]
    return csr_matrix((correct - confidence, (rows, np.arange(n))), shape=(ECE_BINS, n))


def point_metrics(split: ScoredSplit, extra: bool = False) -> dict[str, float | None]:
    """Metrics of one split: {name: value}, None if the split leaves the metric undefined (see `reasons`).

    Args:
        split: split with its thresholds.
        extra: also compute sensitivity, specificity, average precision (macro), Brier score and ECE. ECE uses 15
            equal-mass bins, and equal scores share a bin; it is that of the top class for multi-class tasks and the
            mean over labels otherwise.
    """
    values = Scorer(split, extra)(np.ones((split.size, 1), np.float32))
    undefined = reasons(split)
    return {k: None if k in undefined or np.isnan(v[0]) else float(v[0]) for k, v in values.items()}


def reasons(split: ScoredSplit) -> Mapping[str, str]:
    """Why metrics are undefined on a split: {name: reason}, for the undefined ones.

    AUC needs positive and negative samples of every label or class, and so do balanced accuracy and MCC of binary and
    multi-label tasks; recall, F1 and average precision need positives; Brier score and ECE need probabilities.
    """
    columns = split.columns
    empty = np.flatnonzero(columns.sum(axis=0) == 0)
    full = np.flatnonzero(columns.sum(axis=0) == split.size)
    lacking = _lacking(split, empty, full)
    if split.scores.min() < 0 or split.scores.max() > 1:
        lacking[Needs.PROBABILITIES] = "scores are not probabilities: they leave 0..1"
    return _undefined(lacking)


def _undefined(lacking: dict[Needs, str]) -> dict[str, str]:
    """{metric: reason} for the metrics that need what is lacking; with several reasons, the last one."""
    return {name: why for need, why in lacking.items() for name, metric in METRICS.items() if need in metric.needs}


def _lacking(split: ScoredSplit, empty: np.ndarray, full: np.ndarray) -> dict[Needs, str]:
    """What a split lacks, and why. The columns `empty` have no positive, the columns `full` no negative."""
    lacking: dict[Needs, str] = {}
    if split.task not in (BINARY, MULTILABEL):
        if len(empty):
            lacking[Needs.EVERY_CLASS] = _name_columns(empty, "no sample", "class", "classes")
        if len(full):
            lacking[Needs.TWO_CLASSES] = f"every sample is of class {full[0]}"
        return lacking
    binary = split.task == BINARY
    if len(full):
        lacking[Needs.NEGATIVES] = "every sample is of class 1" if binary else _name_columns(full, "no negative")
    if len(empty):
        why = "every sample is of class 0" if binary else _name_columns(empty, "no positive")
        lacking[Needs.POSITIVES] = why
        if len(empty) == split.labels.shape[1]:
            lacking[Needs.ANY_POSITIVE] = why
    return lacking


def lone_classes(split: ScoredSplit, units: np.ndarray) -> dict[str, str]:
    """Metrics of a split that have no interval because a class has a single unit: {name: reason}.

    A resample either repeats that unit or lacks it, which says nothing about other units of its class. Intervals would
    be too narrow by an unknown amount, down to no width at all.

    Args:
        split: checked labels and scores.
        units: (n,) the case or subject of each sample.
    """
    columns = split.columns.T.astype(bool)
    few = np.flatnonzero([len(np.unique(units[column])) == 1 for column in columns])
    most = np.flatnonzero([len(np.unique(units[~column])) == 1 for column in columns])
    lacking = _lacking(split, few, most)
    if split.task not in (BINARY, MULTILABEL) and len(few):
        lacking[Needs.EQUAL_CLASSES] = ""
    if split.task == BINARY:
        why = f"of class {1 if len(few) else 0}"
    elif split.task == MULTILABEL:
        why = _name_columns(np.union1d(few, most), "positive, or negative,")
    else:
        why = f"of {_listed(few, 'class', 'classes')}"
    return dict.fromkeys(_undefined(lacking), f"one case or subject alone is {why}")


def _name_columns(which: np.ndarray, lack: str, one: str = "label", many: str = "labels") -> str:
    return f"{lack} of {_listed(which, one, many)}"


def _listed(which: np.ndarray, one: str, many: str) -> str:
    listed = ", ".join(map(str, which[:8])) + (", ..." if len(which) > 8 else "")
    return f"{one if len(which) == 1 else many} {listed}"


def notes(split: ScoredSplit, name: str = "test") -> list[str]:
    """Notes on a split for readers of its numbers: missing classes and undefined metrics."""
    empty = np.flatnonzero(split.columns.sum(axis=0) == 0)
    notes = []
    if split.task in (MULTICLASS, ORDINAL) and len(empty):
        notes.append(f"{name}: {_name_columns(empty, 'no sample', 'class', 'classes')}; "
                    "balanced accuracy runs over the classes that occur, macro F1 and recall also over those that are "
                    "decided for")  # fmt: skip
    return notes


def _decided(name: str) -> Callable[[Weighted], np.ndarray]:
    return lambda weighted: weighted.decided[name]


_BOTH = Needs.POSITIVES | Needs.NEGATIVES
_AVERAGED = Needs.TWO_CLASSES | Needs.EQUAL_CLASSES
for _metric in (
    Metric(
        "mcc", "MCC", _decided("mcc"), _BOTH | Needs.TWO_CLASSES, compared=True, column=True, lowest=-1.0,
        hub="matthews_correlation",
    ),
    Metric("balanced_accuracy", "BA", _decided("balanced_accuracy"), _BOTH | _AVERAGED, compared=True, column=True),
    Metric(
        "f1_macro", "F1", _decided("f1_macro"), Needs.POSITIVES | _AVERAGED, compared=True, column=True, hub="f1"
    ),
    Metric(
        "auc", "AUC", lambda w: w.mean_over_labels(roc_auc), _BOTH | Needs.EVERY_CLASS, compared=True, column=True,
        hub="roc_auc",
    ),
    Metric("accuracy", "Accuracy", _decided("accuracy"), compared=True, column=True, averaged=False),
    Metric("f1_micro", "F1 (micro)", _decided("f1_micro"), Needs.ANY_POSITIVE),
    Metric("recall_macro", "Recall", _decided("recall_macro"), Needs.POSITIVES | _AVERAGED, hub="recall"),
    Metric("recall_micro", "Recall (micro)", _decided("recall_micro"), Needs.ANY_POSITIVE),
    Metric(
        "sensitivity", "Sensitivity", lambda w: w.rates["sensitivity"], Needs.POSITIVES | Needs.EVERY_CLASS,
        extra=True,
    ),
    Metric(
        "specificity", "Specificity", lambda w: w.rates["specificity"], Needs.NEGATIVES | Needs.TWO_CLASSES,
        extra=True,
    ),
    Metric(
        "average_precision", "AP", lambda w: w.mean_over_labels(average_precision),
        Needs.POSITIVES | Needs.EVERY_CLASS, extra=True,
    ),
    Metric(
        "brier", "Brier", lambda w: w.calibration["brier"], Needs.PROBABILITIES, extra=True, lower_is_better=True
    ),
    Metric("ece", "ECE", lambda w: w.calibration["ece"], Needs.PROBABILITIES, extra=True, lower_is_better=True),
    BoxFigure("AP", "AP (boxes)", column=True),
    BoxFigure("AP50", "AP50", column=True),
    BoxFigure("AP75", "AP75", column=True),
    BoxFigure("AR100", "AR100"),
):  # fmt: skip
    register(_metric)
