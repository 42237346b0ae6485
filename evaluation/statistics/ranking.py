"""Rank metrics of one 0/1 label under many integer weightings of its samples: AUC and average precision.

A label is sorted once. Each weighting then takes group sums, a cumulative sum and a dot product over groups of samples
whose order does not matter, so 1,000 bootstrap resamples cost little more than one.
"""

import numpy as np


class RankedLabel:
    """Samples of one label in the order of their scores, reduced to the groups that rank metrics can distinguish.

    Args:
        labels: (n,) of 0/1.
        scores: (n,) finite; larger means more likely positive.
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray):
        positive = np.asarray(labels, dtype=bool)
        self.labels, self.scores = positive, np.asarray(scores, dtype=np.float64)
        # Groups follow the rarer class: at most one group of the other class between two of its values.
        self.rare = positive if 2 * positive.sum() <= len(positive) else ~positive
        self.rare_is_positive = self.rare is positive
        self._prepare()

    def _prepare(self) -> None:
        values = np.unique(self.scores[self.rare])
        common = np.flatnonzero(~self.rare)
        place = np.searchsorted(values, self.scores[common])
        tied = np.zeros(len(common), bool)
        inside = place < len(values)
        tied[inside] = values[place[inside]] == self.scores[common][inside]
        # Key 2k: strictly between values k-1 and k; key 2k+1: equal to value k.
        keys, rows = np.unique(2 * place + tied, return_inverse=True)
        rare = np.flatnonzero(self.rare)
        own = 2 * np.searchsorted(values, self.scores[rare])
        below = np.searchsorted(keys, own, side="right") - 1
        equal = np.searchsorted(keys, own + 1)
        has_equal = np.append(keys, -1)[equal] == own + 1
        self.common_rows = _indicator(rows, common, len(keys), len(self.scores))
        self.below_rows = _indicator(below[below >= 0], rare[below >= 0], len(keys), len(self.scores))
        self.tied_rows = _indicator(equal[has_equal], rare[has_equal], len(keys), len(self.scores))


def _indicator(rows: np.ndarray, samples: np.ndarray, height: int, width: int):
    from scipy.sparse import csr_matrix

    return csr_matrix((np.ones(len(rows), np.float32), (rows, samples)), shape=(height, width))


def _dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Column-wise dot products of two (rows, B) arrays in float64: (B,)."""
    total = np.zeros(left.shape[1])
    for start in range(0, len(left), 512):
        rows = slice(start, start + 512)
        total += np.multiply(left[rows], right[rows], dtype=np.float64).sum(axis=0)
    return total


def roc_auc(ranked: RankedLabel, weights: np.ndarray) -> np.ndarray:
    """Exact area under the ROC curve (Mann-Whitney U, ties count half), for each column of weights.

    Args:
        ranked: the prepared label.
        weights: (n, B) whole numbers in float32; each column sums to less than 2**24.

    Returns:
        (B,) float64, NaN if a column contains only one class.
    """
    common = ranked.common_rows @ weights
    wins = 0.5 * _dot(common, ranked.tied_rows @ weights) if ranked.tied_rows.nnz else np.zeros(weights.shape[1])
    np.cumsum(common, axis=0, out=common)
    wins += _dot(common, ranked.below_rows @ weights)
    rare_total = np.asarray(ranked.rare.astype(np.float32) @ weights, dtype=np.float64)
    pairs = rare_total * (weights.sum(axis=0, dtype=np.float64) - rare_total)
    area = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return area if ranked.rare_is_positive else 1 - area


def average_precision(ranked: RankedLabel, weights: np.ndarray) -> np.ndarray:
    """Average precision: the mean over positives of the precision at their score, for each column of weights.

    It is the step-wise sum of (R_i - R_{i-1}) P_i, as in scikit-learn; equal scores form one step.

    Args:
        ranked: the prepared label.
        weights: (n, B) whole numbers in float32.

    Returns:
        (B,) float64, NaN if a column contains no positive.
    """
    values, rows = np.unique(-ranked.scores, return_inverse=True)
    everyone = _indicator(rows, np.arange(len(rows)), len(values), len(rows))
    positive = np.flatnonzero(ranked.labels)
    hits = _indicator(rows[positive], positive, len(values), len(rows)) @ weights
    true_positives, taken = (
        np.cumsum(hits, axis=0, dtype=np.float64),
        np.cumsum(everyone @ weights, axis=0, dtype=np.float64),
    )
    precision = np.divide(true_positives, taken, out=np.zeros_like(true_positives), where=taken > 0)
    total = true_positives[-1]
    return np.divide((hits * precision).sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
