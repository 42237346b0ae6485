"""Classification and segmentation metrics, each defined once, for point values and weighted resamples alike.

Every metric takes samples with integer weights: a column of ones gives the point value, a column of draw counts
gives one bootstrap resample, and many columns give many resamples at the cost of a matrix product. Averages follow
scikit-learn and the MedMNIST evaluator: AUC is the unweighted one-vs-rest mean; accuracy, balanced accuracy and MCC
of multi-label tasks are means over labels; recall and F1 of binary tasks are those of the positive class.
"""

from collections.abc import Mapping

import numpy as np

from biovfm_hf.errors import UserError

from .kinds import BINARY, MULTICLASS, MULTILABEL, ORDINAL
from .ranking import RankedLabel, average_precision, roc_auc
from .split import ScoredSplit

NAMES = ("auc", "accuracy", "balanced_accuracy", "mcc", "f1_macro", "f1_micro", "recall_macro", "recall_micro")
EXTRA_NAMES = ("sensitivity", "specificity", "average_precision", "brier", "ece")
ECE_BINS = 15


def predict(split: ScoredSplit) -> np.ndarray:
    """Decisions: argmax (n,) for multi-class tasks, otherwise `score > threshold` per label, (n, L) of 0/1.

    Raises:
        UserError: the split has no thresholds and needs some.
    """
    if split.task not in (BINARY, MULTILABEL):
        return split.scores.argmax(axis=1)
    if split.thresholds is None:
        raise UserError("this split has no decision thresholds; choose them on validation")
    return (split.scores > split.thresholds).astype(np.int64)


class Scorer:
    """All metrics of one split under its thresholds, ready to be evaluated for many weightings of its samples.

    What does not depend on the weights (decisions, sort orders, calibration bins) is prepared once.

    Args:
        split: checked labels and scores, with thresholds.
        extra: also give `EXTRA_NAMES`.
    """

    def __init__(self, split: ScoredSplit, extra: bool = False):
        self.split = split
        self.extra = extra
        decisions = predict(split)
        columns = split.columns
        if split.task in (BINARY, MULTILABEL):
            self._cells = _cell_indicators(columns, decisions)
            self._classes = 0
        else:
            self._classes = split.scores.shape[1]
            self._cells = _sparse_cells(split.labels, decisions, self._classes)
        self._ranked = [RankedLabel(columns[:, k], split.scores[:, k]) for k in range(columns.shape[1])]
        self._linear = _linear_terms(split) if extra else None

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that calling this object gives."""
        return NAMES + EXTRA_NAMES if self.extra else NAMES

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Evaluate the metrics for weights (n, B) float32 of whole numbers. Returns {name: (B,) float64}.

        A ratio without a denominator follows scikit-learn: 0 for recall, F1 and MCC, NaN for AUC and average
        precision. `reasons` tells for which of them the split as a whole leaves the metric undefined.
        """
        aucs = np.stack([roc_auc(ranked, weights) for ranked in self._ranked])
        counts = self.counts(weights)
        decided = multiclass_metrics(counts) if self._classes else binary_metrics(counts)
        values = {"auc": aucs.mean(axis=0), **decided}
        if self.extra:
            values |= _rates(counts, multiclass=bool(self._classes))
            values["average_precision"] = np.stack([average_precision(r, weights) for r in self._ranked]).mean(axis=0)
            values |= self._calibration(weights)
        return {name: values[name] for name in self.names}

    def counts(self, weights: np.ndarray) -> np.ndarray:
        """Weighted counts: (B, L, 4) of tp, fp, fn, tn, or (B, C, C) confusion matrices (rows are the truth)."""
        if self._classes:
            cells = np.asarray(self._cells @ weights, dtype=np.float64)
            return cells.T.reshape(-1, self._classes, self._classes)
        held = np.asarray(weights.T @ self._cells, dtype=np.float64).reshape(weights.shape[1], -1, 3)
        total = weights.sum(axis=0, dtype=np.float64)[:, None]
        return np.concatenate([held, (total - held.sum(axis=2))[:, :, None]], axis=2)

    def _calibration(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        if self._linear is None:
            undefined = np.full(weights.shape[1], np.nan)
            return {"brier": undefined, "ece": undefined}
        squared, gaps = self._linear
        total = weights.sum(axis=0, dtype=np.float64)
        ece = [np.abs(np.asarray(gap @ weights, dtype=np.float64)).sum(axis=0) / total for gap in gaps]
        return {"brier": (squared @ weights) / total, "ece": np.mean(ece, axis=0)}


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

    Balanced accuracy averages the recalls of the classes that occur (Brodersen et al. 2010); MCC is 0 where its
    denominator is (Matthews 1975), as in scikit-learn.
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

    Macro recall and F1 average over classes that occur in truth or decisions, balanced accuracy over those in
    the truth, MCC is Gorodkin's R_K (2004): scikit-learn's conventions.
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
    """Matthews correlation from marginal counts, in whole numbers until the last division (so ties stay ties)."""
    dot = sum(t * p for t, p in zip(truth, decided, strict=True))
    spread = (total**2 - sum(p * p for p in decided)) * (total**2 - sum(t * t for t in truth))
    return _ratio(correct * total - dot, np.sqrt(spread))


def _rates(counts: np.ndarray, multiclass: bool) -> dict[str, np.ndarray]:
    """Sensitivity and specificity: means over labels, or over classes one against the rest."""
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
    """Brier's per-sample squared error and, per label, the sparse matrix whose |product| with weights sums to ECE."""
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
    # Equal scores go into one bin, that of their middle rank: cut by row number, bins would follow the file's order.
    rows = ((2 * first + sizes - 1) * ECE_BINS // (2 * n))[group.reshape(-1)]
    return csr_matrix((correct - confidence, (rows, np.arange(n))), shape=(ECE_BINS, n))


def point_metrics(split: ScoredSplit, extra: bool = False) -> dict[str, float | None]:
    """Metrics of one split: {name: value}, None where the split leaves the metric undefined (see `reasons`).

    Args:
        split: with its thresholds.
        extra: also sensitivity, specificity, average precision (macro), Brier score and ECE (15 equal-mass bins, of
            which equal scores share one; of the top class for multi-class tasks, the mean over labels otherwise).
    """
    values = Scorer(split, extra)(np.ones((split.size, 1), np.float32))
    undefined = reasons(split)
    return {k: None if k in undefined or np.isnan(v[0]) else float(v[0]) for k, v in values.items()}


def reasons(split: ScoredSplit) -> Mapping[str, str]:
    """Why metrics are undefined on a split: {name: reason}, for those that are.

    AUC needs positive and negative samples of every label or class, and so do balanced accuracy and MCC of binary
    and multi-label tasks; recall, F1 and average precision need positives; Brier score and ECE need probabilities.
    """
    found: dict[str, str] = {}
    columns = split.columns
    empty = np.flatnonzero(columns.sum(axis=0) == 0)
    full = np.flatnonzero(columns.sum(axis=0) == split.size)
    if split.task in (BINARY, MULTILABEL):
        _binary_reasons(found, split, empty, full)
    else:
        _multiclass_reasons(found, empty, full)
    if split.scores.min() < 0 or split.scores.max() > 1:
        found |= dict.fromkeys(("brier", "ece"), "scores are not probabilities: they leave 0..1")
    return found


def _binary_reasons(found: dict[str, str], split: ScoredSplit, empty: np.ndarray, full: np.ndarray) -> None:
    binary = split.task == BINARY
    if len(full):
        why = "every sample is of class 1" if binary else _name_columns(full, "no negative")
        found |= dict.fromkeys(("auc", "balanced_accuracy", "mcc", "specificity"), why)
    if len(empty):
        why = "every sample is of class 0" if binary else _name_columns(empty, "no positive")
        names = ("auc", "balanced_accuracy", "mcc", "f1_macro", "recall_macro", "sensitivity", "average_precision")
        found |= dict.fromkeys(names, why)
        if len(empty) == split.labels.shape[1]:
            found |= dict.fromkeys(("f1_micro", "recall_micro"), why)


def _multiclass_reasons(found: dict[str, str], empty: np.ndarray, full: np.ndarray) -> None:
    if len(empty):
        why = _name_columns(empty, "no sample", "class", "classes")
        found |= dict.fromkeys(("auc", "average_precision", "sensitivity"), why)
    if len(full):
        why = f"every sample is of class {full[0]}"
        found |= dict.fromkeys(("mcc", "balanced_accuracy", "f1_macro", "recall_macro", "specificity"), why)


def lone_classes(split: ScoredSplit, units: np.ndarray) -> dict[str, str]:
    """Why metrics of a split can have no interval: {name: reason}, for those that rest on a class of one unit alone.

    A resample repeats that unit or lacks it, which does not tell how another of its class would have fared: intervals
    would be too narrow by what nothing here knows, down to no width at all.

    Args:
        split: checked labels and scores.
        units: (n,) the case or subject of each sample.
    """
    found: dict[str, str] = {}
    columns = split.columns.T.astype(bool)
    few = np.flatnonzero([len(np.unique(units[held])) == 1 for held in columns])
    most = np.flatnonzero([len(np.unique(units[~held])) == 1 for held in columns])
    if split.task in (BINARY, MULTILABEL):
        _binary_reasons(found, split, few, most)
    else:
        _multiclass_reasons(found, few, most)
        found |= dict.fromkeys(("balanced_accuracy", "f1_macro", "recall_macro") if len(few) else (), "")
    if split.task == BINARY:
        why = f"of class {1 if len(few) else 0}"
    elif split.task == MULTILABEL:
        why = _name_columns(np.union1d(few, most), "positive, or negative,")
    else:
        why = f"of {_listed(few, 'class', 'classes')}"
    return dict.fromkeys(found, f"one case or subject alone is {why}")


def _name_columns(which: np.ndarray, lack: str, one: str = "label", many: str = "labels") -> str:
    return f"{lack} of {_listed(which, one, many)}"


def _listed(which: np.ndarray, one: str, many: str) -> str:
    listed = ", ".join(map(str, which[:8])) + (", ..." if len(which) > 8 else "")
    return f"{one if len(which) == 1 else many} {listed}"


def notes(split: ScoredSplit, name: str = "test") -> list[str]:
    """What a reader must know about a split before its numbers: missing classes and undefined metrics, in words."""
    empty = np.flatnonzero(split.columns.sum(axis=0) == 0)
    said = []
    if split.task in (MULTICLASS, ORDINAL) and len(empty):
        said.append(f"{name}: {_name_columns(empty, 'no sample', 'class', 'classes')}; "
                    "balanced accuracy runs over the classes that occur, macro F1 and recall also over those that are "
                    "decided for")  # fmt: skip
    return said


def segmentation_counts(decided: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Voxel counts of one case: (classes, 3) int64 of intersection, decided and true voxels per class.

    Counts add: sum them over the slices of a volume before `dice` or `jaccard` for a score per volume.

    Raises:
        UserError: the masks differ in shape or hold a class outside 0..classes-1.
    """
    decided, truth = np.asarray(decided), np.asarray(truth)
    if decided.shape != truth.shape:
        raise UserError(f"masks differ in shape: decided {decided.shape}, truth {truth.shape}")
    for name, mask in (("decided", decided), ("truth", truth)):
        if mask.size and (mask.min() < 0 or mask.max() >= classes):
            raise UserError(f"{name} mask holds classes {mask.min()}..{mask.max()}; expected 0..{classes - 1}")
    hit = np.bincount(truth[decided == truth].reshape(-1), minlength=classes)
    counts = [
        hit,
        np.bincount(decided.reshape(-1), minlength=classes),
        np.bincount(truth.reshape(-1), minlength=classes),
    ]
    return np.stack(counts, axis=1).astype(np.int64)


def dice(counts: np.ndarray) -> np.ndarray:
    """Dice (1945) per class from `segmentation_counts` (..., classes, 3); NaN where a class is in neither mask."""
    hit, decided, truth = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _ratio(2 * hit, decided + truth, np.nan)


def jaccard(counts: np.ndarray) -> np.ndarray:
    """Jaccard index per class from `segmentation_counts` (..., classes, 3); NaN where a class is in neither mask."""
    hit, decided, truth = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _ratio(hit, decided + truth - hit, np.nan)


def mean_dice(counts: np.ndarray) -> float:
    """Mean over cases of the mean Dice of the foreground classes that occur; 0 where none is defined."""
    values = case_scores(dice(counts))
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def case_scores(per_class: np.ndarray) -> np.ndarray:
    """Mean over the foreground classes (cases, K) -> (cases,); NaN where a case defines none."""
    foreground = per_class[:, 1:]
    defined = np.isfinite(foreground)
    total = np.where(defined, foreground, 0).sum(1)
    return np.divide(total, defined.sum(1), out=np.full(len(total), np.nan), where=defined.any(1))
