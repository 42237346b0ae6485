"""Statistics for comparing several models: Holm's correction of p-values, and mean ranks over tasks."""

from collections.abc import Sequence

import numpy as np


def p_text(p: float | None) -> str:
    """A p-value as text: `<0.001`, or three decimals; empty if there is none.

    >>> p_text(0.0004), p_text(0.02), p_text(None)
    ('<0.001', '0.020', '')
    """
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down adjusted p-values of one family of tests; NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors)) if len(order) else []
    return adjusted


def task_ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each model on each task by scores (tasks, models), 1 is the highest; equal scores share their mean rank.

    >>> task_ranks(np.array([[0.9, 0.7, 0.7]])).tolist()
    [[1.0, 2.5, 2.5]]
    """
    values = np.asarray(values, dtype=np.float64)
    higher = (values[:, None, :] > values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    return higher + (equal + 1) / 2


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Mean rank (models,) over tasks of scores (tasks, models), as Demsar (2006) compares models; 1 is best."""
    return task_ranks(values).mean(axis=0)
