"""Decisions of a split, how often they are right, and the metrics that follow from these counts."""

import numpy as np

from biovfm_hf.errors import UserError

from .kinds import BINARY, MULTILABEL
from .split import ScoredSplit

ECE_BINS = 15


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


def cell_indicators(truth: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """(n, L * 3) float32 indicators of true positive, false positive, false negative."""
    cells = np.stack([truth & decisions, (1 - truth) & decisions, truth & (1 - decisions)], axis=2)
    return cells.reshape(len(truth), -1).astype(np.float32)


def sparse_cells(truth: np.ndarray, decisions: np.ndarray, classes: int):
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


def rates_of(counts: np.ndarray, multiclass: bool) -> dict[str, np.ndarray]:
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


def calibration_terms(split: ScoredSplit):
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
