"""Tests of differences between models: paired bootstrap, DeLong's test, average ranks."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.results.significance import mean_ranks, task_ranks

from .bootstrap import Resampler, Resampling, bounds, resampled_means, resampled_metrics
from .metrics import Scorer
from .split import ScoredSplit
from .undefined import reasons


def paired_bootstrap(
    split_a: ScoredSplit, split_b: ScoredSplit, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Differences A - B of every metric on the same test cases, with intervals and p-values from shared resamples.

    The 95 % interval is the percentile interval of the resampled differences (Efron & Tibshirani 1993). The p-value is
    twice the smaller share of resamples at or beyond 0. The observed data count as one more resample, so p is at least
    2 / (resamples + 1); few cases raise this bound (see `paired_interval`).

    Args:
        split_a: model A's scores with thresholds; its subjects and strata determine what is resampled.
        split_b: model B's scores with thresholds, for the same cases in the same order.
        resamples: number of resamples.
        seed: random seed of the resamples.

    Returns:
        {metric: {"difference", "low", "high", "p"}}; all None, with a "reason", if the metric is undefined.

    Raises:
        UserError: the two splits have different cases.
    """
    if not np.array_equal(split_a.labels, split_b.labels):
        raise UserError("the two models were scored on other test cases, so they cannot be compared by pairs")
    resampler = Resampling("fast", resamples, seed).of(split_a)
    first, drawn_a = _point_and_draws(split_a, resampler, resamples)
    second, drawn_b = _point_and_draws(split_b, resampler, resamples)
    undefined = {**reasons(split_a), **reasons(split_b)}
    return {
        name: {"difference": None, "low": None, "high": None, "p": None, "reason": undefined[name]}
        if name in undefined
        else paired_interval(first[name] - second[name], drawn_a[name] - drawn_b[name], resampler.count_units())
        for name in drawn_a
    }


def _point_and_draws(split: ScoredSplit, resampler: Resampler, resamples: int) -> tuple[dict, dict]:
    scorer = Scorer(split)
    point = {name: float(v[0]) for name, v in scorer(np.ones((split.size, 1), np.float32)).items()}
    return point, resampled_metrics(scorer, resampler, resamples)


def paired_interval(observed: float, drawn: np.ndarray, units: int) -> dict[str, Any]:
    """A difference with the 95 % interval and the two-sided p of its resamples (of those that define it).

    With few cases a bootstrap is overconfident: four differences of the same sign always resample to the lowest
    possible p. So p is at least 2^(1 - units), the lowest p of a sign test on as many cases or subjects; a single unit
    has no p.
    """
    drawn = drawn[~np.isnan(drawn)]
    none = {"difference": observed, "low": None, "high": None, "p": None}
    if not len(drawn):
        return {**none, "reason": "every resample lacks a class"}
    if units < 2:
        return {**none, "reason": "one case or subject alone gives no interval"}
    low, high = bounds(drawn, "fast")
    beyond = int(min((drawn <= 0).sum(), (drawn >= 0).sum()))
    p = min(1.0, max(2 * (beyond + 1) / (len(drawn) + 1), lowest_p(units)))
    return {"difference": observed, "low": low, "high": high, "p": p}


def paired_means(
    differences: np.ndarray, resamples: int = 1000, seed: int = 0, clusters: np.ndarray | None = None
) -> dict[str, Any]:
    """The mean of per-case differences with its percentile interval and two-sided bootstrap p, see `paired_interval`.

    Args:
        differences: (cases,) differences; NaN where a case does not define the score.
        resamples: number of resamples.
        seed: random seed of the resamples.
        clusters: (cases,) subjects, to draw whole subjects.
    """
    known = np.isfinite(differences)
    if not known.any():
        return {"difference": None, "low": None, "high": None, "p": None, "reason": "no case defines the score"}
    resampler = Resampler(len(differences), "fast", seed, clusters)
    drawn = resampled_means(differences, resampler, resamples)
    return paired_interval(float(differences[known].mean()), drawn, resampler.count_units(known))


def lowest_p(units: int) -> float:
    """The lowest two-sided p that a sign test can reach with `units` differences."""
    return 2.0 ** (1 - units)


@dataclass(frozen=True)
class DeLong:
    """DeLong's comparison of two AUCs on the same cases.

    Attributes:
        auc_a: AUC of A.
        auc_b: AUC of B.
        difference: A - B.
        standard_error: standard error of the difference.
        z: difference over its standard error (0 if both are 0).
        p: two-sided normal p-value.
    """

    auc_a: float
    auc_b: float
    difference: float
    standard_error: float
    z: float
    p: float


def delong(
    labels: np.ndarray, scores_a: np.ndarray, scores_b: np.ndarray, clusters: np.ndarray | None = None
) -> DeLong:
    """DeLong, DeLong & Clarke-Pearson's (1988) paired test of two AUCs, by midranks (Sun & Xu 2014).

    With several labels or classes, the AUCs are means over them. Since all labels are scored on the same cases, a
    case's shares in the variance are added over labels before they are squared. With `clusters` they are also added
    within subjects, as in Obuchowski (1997).

    Args:
        labels: (n,) or (n, L) of 0/1.
        scores_a: the same shape.
        scores_b: the same shape.
        clusters: (n,) subjects; None if each case is its own subject.

    Raises:
        UserError: a label has fewer than two positives or negatives, or shapes do not fit.
    """
    from scipy.stats import norm

    columns = _columns(labels)
    pairs = [_columns(scores) for scores in (scores_a, scores_b)]
    if any(scores.shape != columns.shape for scores in pairs):
        raise UserError(
            f"labels {columns.shape}, scores {pairs[0].shape} and {pairs[1].shape}; give one score per case"
        )
    parts = [
        delong_shares(columns[:, k], np.stack([scores[:, k] for scores in pairs])) for k in range(columns.shape[1])
    ]
    aucs = np.mean([auc for auc, _ in parts], axis=0)
    shares = np.mean([share[0] - share[1] for _, share in parts], axis=0)
    if clusters is not None:
        shares = np.bincount(np.unique(clusters, return_inverse=True)[1].reshape(-1), weights=shares)
    difference, error = float(aucs[0] - aucs[1]), float(np.sqrt((shares**2).sum()))
    z = difference / error if error > 0 else (0.0 if difference == 0 else float(np.copysign(np.inf, difference)))
    return DeLong(float(aucs[0]), float(aucs[1]), difference, error, z, float(2 * norm.sf(abs(z))))


def _columns(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    return values[:, None] if values.ndim == 1 else values


def delong_shares(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUCs (K,) of K score vectors, and each case's share (K, n) in them; DeLong's covariance sums their products.

    Args:
        labels: (n,) of 0/1 with at least two of each.
        scores: (K, n) scores.
    """
    from scipy.stats import rankdata

    truth = np.asarray(labels).reshape(-1).astype(bool)
    scores = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if scores.shape[1] != len(truth):
        raise UserError(f"{len(truth)} labels for {scores.shape[1]} scores; give one score per case")
    positives, negatives = scores[:, truth], scores[:, ~truth]
    m, n = positives.shape[1], negatives.shape[1]
    if m < 2 or n < 2:
        raise UserError(f"DeLong's test needs two positives and two negatives; there are {m} and {n}")
    ranks = rankdata(scores, axis=1)
    over_negatives = (ranks[:, truth] - rankdata(positives, axis=1)) / n
    over_positives = 1 - (ranks[:, ~truth] - rankdata(negatives, axis=1)) / m
    aucs = over_negatives.mean(axis=1)
    shares = np.empty(scores.shape)
    shares[:, truth] = (over_negatives - aucs[:, None]) / np.sqrt(m * (m - 1))
    shares[:, ~truth] = (over_positives - aucs[:, None]) / np.sqrt(n * (n - 1))
    return aucs, shares


@dataclass(frozen=True)
class Ranking:
    """Average ranks of models over tasks (Demsar 2006).

    Attributes:
        ranks: (models,) average rank over the tasks; 1 is best.
        friedman_p: p-value of the hypothesis that all models are alike (Friedman's chi-square).
        critical_difference: Nemenyi's difference of average ranks above which two models differ at `alpha`.
        groups: indices of models that do not differ significantly, best first: maximal runs within the critical
            difference.
    """

    ranks: np.ndarray
    friedman_p: float
    critical_difference: float
    groups: list[list[int]]


def rank_models(values: np.ndarray, alpha: float = 0.05) -> Ranking:
    """Average ranks with Friedman's test and Nemenyi's critical difference.

    Args:
        values: (tasks, models) scores, higher is better, without NaN; at least two of each.
        alpha: significance level of the critical difference.

    Raises:
        UserError: too few tasks or models, or a missing score.
    """
    from scipy.stats import chi2, studentized_range

    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2:
        raise UserError(f"ranking needs at least two tasks and two models; got an array of shape {values.shape}")
    if np.isnan(values).any():
        raise UserError("a model lacks a score on a task; rank only models that were scored on the same tasks")
    tasks, models = values.shape
    each = task_ranks(values)
    ranks = mean_ranks(values)
    spread = ((each - (models + 1) / 2) ** 2).sum() / (tasks * (models - 1))
    statistic = tasks * ((ranks - (models + 1) / 2) ** 2).sum() / spread if spread > 0 else 0.0
    critical = (
        studentized_range.ppf(1 - alpha, models, np.inf) / np.sqrt(2) * np.sqrt(models * (models + 1) / 6 / tasks)
    )
    return Ranking(ranks, float(chi2.sf(statistic, models - 1)), float(critical), _groups(ranks, float(critical)))


def _groups(ranks: np.ndarray, critical: float) -> list[list[int]]:
    order = np.argsort(ranks, kind="stable")
    groups: list[list[int]] = []
    for start in range(len(order)):
        run = [int(k) for k in order[start:] if ranks[k] - ranks[order[start]] <= critical]
        if len(run) > 1 and not (groups and set(run) <= set(groups[-1])):
            groups.append(run)
    return groups


@dataclass(frozen=True)
class SeedSpread:
    """How much of a score's uncertainty is due to seeds (or draws of few-shot subjects), and how much to test cases.

    Attributes:
        mean: mean over seeds.
        seed_sd: standard deviation between seeds, without the sampling noise that they share.
        case_se: standard error due to the sampling of test cases (mean over seeds).
        total_se: standard error of the mean over seeds, with both parts.
        seeds: number of seeds.
        degrees: degrees of freedom of `total_se` (Welch 1947, Satterthwaite 1946); few seeds leave few.
    """

    mean: float
    seed_sd: float
    case_se: float
    total_se: float
    seeds: int
    degrees: float

    def half_width(self) -> float:
        """Half the width of the 95 % interval of the mean."""
        from scipy.stats import t

        return float(t.ppf(0.975, self.degrees)) * self.total_se

    def p(self) -> float:
        """Two-sided p-value of the hypothesis that the mean is 0; for differences."""
        from scipy.stats import t

        if self.total_se == 0:
            return float(self.mean == 0)
        return float(2 * t.sf(abs(self.mean) / self.total_se, self.degrees))


def seed_spread(drawn: np.ndarray) -> SeedSpread:
    """Split the variance of a score into the part of the seeds and the part of the test cases.

    All seeds are scored on the same test cases. The spread between them is therefore due to seeds alone, while the
    sampling of cases moves them together (Bouthillier et al. 2021).

    Args:
        drawn: (seeds, 1 + resamples): for each seed the point value, then its values over resamples that all seeds
            share (`bootstrap.resampled_metrics` with one `Resampler`).

    Raises:
        UserError: there are fewer than two seeds or resamples.
    """
    drawn = np.asarray(drawn, dtype=np.float64)
    if drawn.ndim != 2 or drawn.shape[0] < 2 or drawn.shape[1] < 3:
        raise UserError(f"seed variance needs two seeds and two resamples; got shape {drawn.shape}")
    points, resamples = drawn[:, 0], drawn[:, 1:]
    case_se = float(np.nanstd(resamples, axis=1, ddof=1).mean())
    return replace(spread_of_mean(points, resamples.mean(axis=0)), case_se=case_se)


def spread_of_mean(points: np.ndarray, resampled: np.ndarray, overlap: float = 0.0) -> SeedSpread:
    """The spread of a mean over seeds or draws, from their own variance and the resamples of the test cases.

    Args:
        points: (seeds,) value of each seed, at least two.
        resampled: (resamples,) mean over the seeds in each resample of the test cases, at least two; `case_se` is its
            standard deviation.
        overlap: share r of the training cases that two draws from one training split have in common. Their results are
            correlated by about as much, so the variance of the mean of n draws is not sd^2 / n but
            sd^2 (1 / n + r / (1 - r)), after Nadeau and Bengio (2003).
    """
    seed_sd, case_se = float(points.std(ddof=1)), float(resampled.std(ddof=1))
    common = overlap / (1 - overlap) if overlap < 1 else 0.0  # draws of all cases do not differ
    of_seeds = seed_sd * np.sqrt(1 / len(points) + common)
    total = float(np.hypot(case_se, of_seeds))
    degrees = (len(points) - 1) * (total / of_seeds) ** 4 if of_seeds > 1e-9 * total else np.inf
    return SeedSpread(float(points.mean()), seed_sd, case_se, total, len(points), float(degrees))
