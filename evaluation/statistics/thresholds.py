"""Decision thresholds, chosen on validation scores.

Protocol `biovfm` repeats the published evaluation: thresholds by validation MCC over scikit-learn's ROC thresholds.
Protocol `fast` takes thresholds midway between validation scores.
"""

import numpy as np

from biovfm_hf.errors import UserError

from .bootstrap import check_protocol
from .counts import binary_metrics
from .kinds import BINARY, MULTILABEL
from .split import ScoredSplit

MAX_CANDIDATES = 1000


def choose_thresholds(val: ScoredSplit, protocol: str = "biovfm") -> np.ndarray:
    """Decision thresholds with the highest MCC on validation: one per label, `[0.5]` for multi-class tasks.

    Under `biovfm` the candidates are the scores that scikit-learn's `roc_curve` keeps, with 2,000 or more only every
    k-th of them. On validation a score equal to the candidate counts as positive; on test, `score > threshold` counts
    it as negative. Under `fast` the candidates lie midway between neighbouring scores, so that both rules agree.

    Args:
        val: the validation split.
        protocol: `biovfm` or `fast`.

    Returns:
        (L,) float64 thresholds.

    Raises:
        UserError: no label has both positive and negative validation samples.
    """
    check_protocol(protocol)
    if val.task not in (BINARY, MULTILABEL):
        return np.array([0.5])
    positives = val.labels.sum(axis=0)
    if not ((positives > 0) & (positives < val.size)).any():
        raise UserError("val_labels holds one class only, so no decision threshold can be chosen; "
                        "give a validation split with both classes")  # fmt: skip
    columns = zip(val.labels.T, val.scores.T, strict=True)
    return np.array([_best_threshold(labels, scores, protocol) for labels, scores in columns])


def threshold_notes(val: ScoredSplit) -> list[str]:
    """Notes on labels whose validation samples are all of one class, so that their thresholds mean nothing."""
    if val.task not in (BINARY, MULTILABEL):
        return []
    positives = val.labels.sum(axis=0)
    lacking = np.flatnonzero((positives == 0) | (positives == val.size))
    return [f"val: label {k} has one class only; its threshold is the lowest validation score" for k in lacking]


def _best_threshold(labels: np.ndarray, scores: np.ndarray, protocol: str) -> float:
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(labels[order])
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    tp = hits[last].astype(np.float64)
    fp = last + 1 - tp
    values = ordered[last]
    if protocol == "biovfm":
        kept = _roc_corners(tp, fp)
        tp, fp, values = tp[kept], fp[kept], values[kept]
    tp, fp, values = tp[::-1], fp[::-1], values[::-1]  # ascending thresholds: the first of equal maxima is the lowest
    step = max(1, len(values) // MAX_CANDIDATES) if protocol == "biovfm" and len(values) > MAX_CANDIDATES else 1
    positives, total = hits[-1], len(scores)
    counts = np.stack([tp, fp, positives - tp, total - positives - fp], axis=-1)[::step, None, :]
    best = int(np.argmax(binary_metrics(counts)["mcc"])) * step
    if protocol == "biovfm" or best == 0:
        return float(values[best])
    return float((values[best - 1] + values[best]) / 2)


def _roc_corners(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    """Indices of the ROC points that scikit-learn's `roc_curve` keeps: the ends, and wherever the step changes."""
    if len(tp) <= 2:
        return np.arange(len(tp))
    turns = (np.diff(fp, 2) != 0) | (np.diff(tp, 2) != 0)
    return np.flatnonzero(np.concatenate([[True], turns, [True]]))
