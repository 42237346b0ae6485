"""Which metrics a split leaves undefined, or without an interval, and why."""

from collections.abc import Mapping

import numpy as np

from .kinds import BINARY, MULTICLASS, MULTILABEL, ORDINAL
from .metrics import METRICS, Needs, Scorer
from .split import ScoredSplit


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
    """Notes on a split for readers of its numbers: missing classes, and which averages they enter."""
    empty = np.flatnonzero(split.columns.sum(axis=0) == 0)
    if split.task not in (MULTICLASS, ORDINAL) or not len(empty):
        return []
    missing = _name_columns(empty, "no sample", "class", "classes")
    return [
        f"{name}: {missing}; balanced accuracy averages over the classes that occur, macro F1 and recall also over "
        "classes that are predicted"
    ]
