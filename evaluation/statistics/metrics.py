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

from .counts import (
    binary_metrics,
    calibration_terms,
    cell_indicators,
    multiclass_metrics,
    predict,
    rates_of,
    sparse_cells,
)
from .kinds import BINARY, MULTILABEL
from .ranking import RankedLabel, average_precision, roc_auc
from .split import ScoredSplit


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


def metric_names() -> list[str]:
    """Names of all registered metrics."""
    return [entry.name for entry in _registered()]


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
            self.cells = cell_indicators(columns, decisions)
            self.classes = 0
        else:
            self.classes = split.scores.shape[1]
            self.cells = sparse_cells(split.labels, decisions, self.classes)
        self.ranked = [RankedLabel(columns[:, k], split.scores[:, k]) for k in range(columns.shape[1])]
        calibrated = any(Needs.PROBABILITIES in METRICS[name].needs for name in self.names)
        self.calibration = calibration_terms(split) if calibrated else None

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
        return rates_of(self.counts, multiclass=bool(self.scorer.classes))

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
