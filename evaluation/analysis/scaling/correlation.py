"""Correlations of slopes with task properties over a dozen tasks, with their uncertainty."""

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np

PERMUTATIONS = 9999
EXACT_UP_TO = 8
RIDGES = np.logspace(-3, 3, 25)


@dataclass(frozen=True)
class Correlation:
    """A correlation over n tasks; NaN if undefined (fewer than 3 tasks, or one side is constant).

    Attributes:
        pearson: Pearson's r.
        low, high: 95 % interval of r by Fisher's z (1921); needs 4 tasks.
        p: two-sided permutation p-value of r.
        spearman: Spearman's rank correlation.
        spearman_low, spearman_high: 95 % interval by Fisher's z with Bonett & Wright's (2000) standard error.
        spearman_p: two-sided permutation p-value of `spearman`.
        n: number of tasks.
    """

    pearson: float
    low: float
    high: float
    p: float
    spearman: float
    spearman_low: float
    spearman_high: float
    spearman_p: float
    n: int


def correlate(values: np.ndarray, slopes: np.ndarray, seed: int = 0) -> Correlation:
    """Pearson and Spearman correlation of two vectors, with intervals and permutation p-values.

    Up to eight tasks, all permutations are tried; with more tasks 9,999 random ones, and the observed order counts as
    one more (Phipson & Smyth 2010).

    Args:
        values: (n,) property of each task.
        slopes: (n,) slope of each task.
        seed: random seed of the permutations.
    """
    from scipy.stats import rankdata

    x, y = np.asarray(values, dtype=np.float64), np.asarray(slopes, dtype=np.float64)
    pearson, p = _permuted(x, y, seed)
    spearman, spearman_p = _permuted(rankdata(x), rankdata(y), seed)
    low, high = fisher_interval(pearson, len(x))
    s_low, s_high = fisher_interval(spearman, len(x), inflation=1 + spearman**2 / 2)
    return Correlation(pearson, low, high, p, spearman, s_low, s_high, spearman_p, len(x))


def fisher_interval(r: float, n: int, inflation: float = 1.0) -> tuple[float, float]:
    """95 % interval of a correlation by Fisher's z with variance `inflation` / (n - 3); NaN below four points."""
    if n < 4 or math.isnan(r):
        return math.nan, math.nan
    z, step = math.atanh(max(min(r, 1 - 1e-15), -1 + 1e-15)), 1.959964 * math.sqrt(inflation / (n - 3))
    return min(math.tanh(z - step), r), max(math.tanh(z + step), r)  # at -1 and 1 tanh rounds past r


def _permuted(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[float, float]:
    n = len(x)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    if n < 3 or scale <= 1e-12 * max(1e-300, float(np.abs(x).max() * np.abs(y).max()) * n):
        return math.nan, math.nan
    r = float(x @ y) / scale
    if n <= EXACT_UP_TO:
        drawn = y[np.array(list(permutations(range(n))))] @ x / scale
        return r, float((np.abs(drawn) >= abs(r) - 1e-12).mean())
    shuffled = np.random.default_rng(seed).permuted(np.tile(y, (PERMUTATIONS, 1)), axis=1) @ x / scale
    return r, float(((np.abs(shuffled) >= abs(r) - 1e-12).sum() + 1) / (PERMUTATIONS + 1))


@dataclass(frozen=True)
class Prediction:
    """Slopes of tasks predicted from task properties, each by a model of the other tasks only.

    Attributes:
        predicted: (n,) predictions of ridge regression on standardised log properties.
        baseline: (n,) mean slope of the other tasks.
        rmse, baseline_rmse: root mean squared errors of `predicted` and `baseline`.
        skill: 1 - (rmse / baseline_rmse)^2; above 0 if the properties help.
        low, high: 95 % bootstrap interval of the skill over tasks.
        statement: the outcome as a sentence.
    """

    predicted: np.ndarray
    baseline: np.ndarray
    rmse: float
    baseline_rmse: float
    skill: float
    low: float
    high: float
    statement: str


def predict_slopes(properties: np.ndarray, slopes: np.ndarray, resamples: int = 1999, seed: int = 0) -> Prediction:
    """Predict each task's slope from its properties, by a model fitted to the other tasks (leave one out).

    The ridge penalty is chosen inside each training set by the leave-one-out error of that set.

    Args:
        properties: (n, k) values above 0 for n >= 5 tasks.
        slopes: (n,) slope of each task.
        resamples: number of bootstrap resamples for the interval.
        seed: random seed of the resamples.

    Raises:
        ValueError: there are fewer than five tasks, or properties that are not above 0.
    """
    x, y = np.log(np.asarray(properties, dtype=np.float64)), np.asarray(slopes, dtype=np.float64)
    n = len(y)
    if n < 5 or not np.isfinite(x).all():
        raise ValueError("prediction needs five tasks and properties above 0")
    predicted, baseline = np.empty(n), np.empty(n)
    for left in range(n):
        others = np.arange(n) != left
        predicted[left] = _ridge(x[others], y[others], x[left])
        baseline[left] = y[others].mean()
    errors, baseline_errors = (predicted - y) ** 2, (baseline - y) ** 2
    skill = 1 - errors.sum() / baseline_errors.sum() if baseline_errors.sum() > 0 else math.nan
    picks = np.random.default_rng(seed).integers(0, n, (resamples, n))
    below = baseline_errors[picks].sum(axis=1)
    drawn = 1 - errors[picks].sum(axis=1)[below > 0] / below[below > 0]
    low, high = (float(v) for v in np.quantile(drawn, [0.025, 0.975])) if len(drawn) else (math.nan, math.nan)
    statement = _statement(skill, low, high, n)
    return Prediction(predicted, baseline, float(np.sqrt(errors.mean())), float(np.sqrt(baseline_errors.mean())),
                      float(skill), low, high, statement)  # fmt: skip


def _statement(skill: float, low: float, high: float, n: int) -> str:
    if math.isnan(skill):
        return f"all {n} slopes are equal, so there is nothing to predict"
    numbers = f"skill {skill:z.2f}, 95 % interval {low:z.2f} to {high:z.2f}, {n} tasks"
    if low > 0:
        return f"properties predict slopes better than the mean slope does ({numbers})"
    if high < 0:
        return f"properties do not help: no better than predicting the mean slope ({numbers})"
    return f"no evidence that properties predict slopes better than the mean slope does ({numbers})"


def _ridge(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> float:
    """Ridge regression on standardised columns with an unpenalised mean; penalty by exact leave-one-out error."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    z, centred = (x - mean) / scale, y - y.mean()
    u, s, vt = np.linalg.svd(z, full_matrices=False)
    best, weights = math.inf, np.zeros(x.shape[1])
    for penalty in RIDGES:
        shrink = s**2 / (s**2 + penalty)
        hat = (u * shrink) @ u.T
        errors = (centred - hat @ centred) / (1 - np.diag(hat) - 1 / len(y))
        if (errors**2).sum() < best:
            best = float((errors**2).sum())
            weights = vt.T @ (s / (s**2 + penalty) * (u.T @ centred))
    return float(y.mean() + ((at - mean) / scale) @ weights)
