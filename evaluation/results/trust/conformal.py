"""Conformal prediction sets: labels that include the true one with a chosen probability, for any model.

Split conformal prediction (Vovk et al. 2005; Papadopoulos et al. 2002): each method scores how unusual a label would
be for a case. The threshold is the ceil((n + 1) coverage)-th smallest score of the true labels of n calibration cases,
and a set contains the labels at or below it. For exchangeable cases the sets cover the true label with at least that
probability, on average over calibration sets. A class-conditional threshold guarantees this for each class. A
calibration split that was used to choose the model, its temperature or its thresholds is not quite exchangeable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError

LAMBDAS = (0.001, 0.01, 0.1, 0.2, 0.5)  # Angelopoulos et al. (2021), section 4
TUNING_SHARE = 0.2  # share of the calibration cases on which RAPS chooses its penalty
TOLERANCE = 1e-9


def threshold(scores: np.ndarray, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest of scores (n,); infinite if n is too small for a guarantee."""
    rank = int(np.ceil((len(scores) + 1) * coverage - TOLERANCE))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")


def label_ranks(probabilities: np.ndarray) -> np.ndarray:
    """Rank (n, C) of each label, 0 is the most likely; among equal ones the last label comes first, as in MAPIE."""
    return np.argsort(np.argsort(probabilities, axis=1)[:, ::-1], axis=1)


def hinge_scores(probabilities: np.ndarray) -> np.ndarray:
    """LAC's scores (n, C): 1 minus the probability (Sadinle et al. 2019). The sets are smallest; some may be empty."""
    return 1 - probabilities


@dataclass(frozen=True)
class CumulativeScores:
    """The scores of APS (Romano et al. 2020) and RAPS (Angelopoulos et al. 2021).

    A label's score is the summed probability of all labels down to this one, minus u times its own, plus `penalty` for
    each rank (from 1) beyond `free`. u is uniform on 0..1, drawn for each case.
    """

    penalty: float = 0.0
    free: int = 0

    def __call__(self, probabilities: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Scores (n, C) for probabilities (n, C), with u as `noise` (n,); u = 0 always includes the last label."""
        ranks = label_ranks(probabilities)
        ordered = np.sort(probabilities, axis=1)[:, ::-1]
        sums = np.take_along_axis(np.cumsum(ordered, axis=1), ranks, axis=1)
        penalties = self.penalty * np.maximum(ranks + 1 - self.free, 0)
        return sums - noise[:, None] * probabilities + penalties


def sets_below(scores: np.ndarray, limit: float | np.ndarray) -> np.ndarray:
    """Sets (n, C) bool: the labels whose score is at most the limit, which is a number or (C,) numbers."""
    return scores <= np.asarray(limit) + TOLERANCE


def true_scores(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The score (n,) of each case's true label."""
    return np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]


def class_p_values(calibration: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """P-values (n, C) of each label from the calibration cases of its class: (number at least as unusual + 1) / (n +
    1).

    The sets of labels with p >= 1 - coverage, as in crepes, cover each class (Vovk 2012: Mondrian, or
    class-conditional, sets).

    Args:
        calibration: (m,) scores of the calibration cases' true labels.
        labels: (m,) these labels.
        scores: (n, C) scores of the cases to predict.
    """
    columns = []
    for label in range(scores.shape[1]):
        own = np.sort(calibration[labels == label])
        as_unusual = len(own) - np.searchsorted(own, scores[:, label] - TOLERANCE, side="left")
        columns.append((as_unusual + 1) / (len(own) + 1))
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Calibration:
    """Probabilities (m, C) and labels (m,) from which thresholds are set, and a random seed."""

    probabilities: np.ndarray
    labels: np.ndarray
    seed: int = 0

    def noise(self, cases: int, part: int) -> np.ndarray:
        """The u (cases,) of APS and RAPS, for calibration (`part` 0) or prediction (`part` 1)."""
        return np.random.default_rng([self.seed, part]).random(cases)


def lac(calibration: Calibration, probabilities: np.ndarray, coverage: float) -> np.ndarray:
    """LAC sets (n, C)."""
    limit = threshold(true_scores(hinge_scores(calibration.probabilities), calibration.labels), coverage)
    return sets_below(hinge_scores(probabilities), limit)


def class_conditional(calibration: Calibration, probabilities: np.ndarray, coverage: float) -> np.ndarray:
    """LAC sets (n, C) with one threshold per class; a class with too few calibration cases is in every set."""
    own = true_scores(hinge_scores(calibration.probabilities), calibration.labels)
    return class_p_values(own, calibration.labels, hinge_scores(probabilities)) >= 1 - coverage


def aps(calibration: Calibration, probabilities: np.ndarray, coverage: float) -> np.ndarray:
    """APS sets (n, C), randomised so that their coverage does not exceed the requested one."""
    return _cumulated_sets(CumulativeScores(), calibration, probabilities, coverage)


def raps(calibration: Calibration, probabilities: np.ndarray, coverage: float) -> np.ndarray:
    """RAPS sets (n, C). A fifth of the calibration cases chooses the penalty for small sets and is then left out."""
    order = np.random.default_rng(calibration.seed).permutation(len(calibration.labels))
    parts = np.split(order, [_tuning_cases(len(order))])
    tuning, rest = (
        Calibration(calibration.probabilities[part], calibration.labels[part], calibration.seed) for part in parts
    )
    return _cumulated_sets(choose_penalty(tuning, coverage), rest, probabilities, coverage)


def _tuning_cases(calibrated: int) -> int:
    return max(int(TUNING_SHARE * calibrated), 1)


def choose_penalty(tuning: Calibration, coverage: float) -> CumulativeScores:
    """RAPS's parameters (Angelopoulos et al. 2021, appendix E): free ranks that cover, penalty for smallest sets."""
    ranks = true_scores(label_ranks(tuning.probabilities), tuning.labels) + 1
    free = threshold(ranks, coverage)
    free = int(free) if np.isfinite(free) else tuning.probabilities.shape[1]
    choices = [CumulativeScores(penalty, free) for penalty in LAMBDAS]
    sizes = [_cumulated_sets(each, tuning, tuning.probabilities, coverage).sum() for each in choices]
    return choices[int(np.argmin(sizes))]


def _cumulated_sets(
    scores: CumulativeScores, calibration: Calibration, probabilities: np.ndarray, coverage: float
) -> np.ndarray:
    before = scores(calibration.probabilities, calibration.noise(len(calibration.labels), 0))
    limit = threshold(true_scores(before, calibration.labels), coverage)
    return sets_below(scores(probabilities, calibration.noise(len(probabilities), 1)), limit)


@dataclass(frozen=True)
class Share:
    """Test cases with one threshold: `tested` cases, and `calibrated` cases from which the threshold was set.

    The score of a test case has one of calibrated + 1 ranks among those of the calibration cases, all equally likely;
    `left_out` of them are beyond the threshold.
    """

    tested: int
    calibrated: int
    left_out: int

    def chances(self) -> np.ndarray:
        """The probability (tested + 1,) of each number of covered cases.

        The coverage of a threshold from n calibration cases that leaves out l ranks is distributed as Beta(n + 1 - l,
        l) (Vovk 2012). The test cases add their own variation, which makes it beta-binomial.
        """
        from scipy.stats import betabinom

        counts = np.arange(self.tested + 1)
        if self.left_out < 1:
            return (counts == self.tested).astype(np.float64)
        return betabinom(self.tested, self.calibrated + 1 - self.left_out, self.left_out).pmf(counts)


def _one_share(labels: np.ndarray, tested: np.ndarray, coverage: float) -> list[Share]:
    left_out = int(np.floor((len(labels) + 1) * (1 - coverage) + TOLERANCE))
    return [Share(len(tested), len(labels), left_out)]


def _without_tuning(labels: np.ndarray, tested: np.ndarray, coverage: float) -> list[Share]:
    return _one_share(labels[_tuning_cases(len(labels)) :], tested, coverage)


def _by_class(labels: np.ndarray, tested: np.ndarray, coverage: float) -> list[Share]:
    shares = []
    for label in np.unique(tested):
        own = int((labels == label).sum())
        p_values = np.arange(1, own + 2) / (own + 1)
        shares.append(Share(int((tested == label).sum()), own, int((p_values < 1 - coverage).sum())))
    return shares


@dataclass(frozen=True)
class Method:
    """How sets (n, C) are made, and the shares of the test cases with a threshold of their own.

    `shares` takes the calibration labels (m,), the test labels (n,) and the coverage.
    """

    make: Callable[[Calibration, np.ndarray, float], np.ndarray]
    shares: Callable[[np.ndarray, np.ndarray, float], list[Share]] = _one_share


METHODS = {
    "lac": Method(lac),
    "aps": Method(aps),
    "raps": Method(raps, _without_tuning),
    "class_conditional": Method(class_conditional, _by_class),
}


def measure_sets(sets: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Measure sets (n, C) on cases with labels (n,).

    Returns:
        {"coverage" with its 95 % interval "low", "high" (Clopper & Pearson 1934), "mean_size", "empty",
        "class_coverage" (None for a class without cases)}.
    """
    covered = true_scores(sets, labels)
    low, high = clopper_pearson(int(covered.sum()), len(covered))
    classes = [covered[labels == label] for label in range(sets.shape[1])]
    return {
        "coverage": float(covered.mean()), "low": low, "high": high, "mean_size": float(sets.sum(axis=1).mean()),
        "empty": int((~sets.any(axis=1)).sum()),
        "class_coverage": [float(own.mean()) if len(own) else None for own in classes],
    }  # fmt: skip


def clopper_pearson(successes: int, cases: int, tail: float = 0.05) -> tuple[float, float]:
    """The exact interval of a share (Clopper & Pearson 1934).

    Raises:
        UserError: there is no case.
    """
    from scipy.stats import beta

    if cases < 1:
        raise UserError("a share of no cases has no interval")
    low = beta.ppf(tail / 2, successes, cases - successes + 1) if successes else 0.0
    high = beta.ppf(1 - tail / 2, successes + 1, cases - successes) if successes < cases else 1.0
    return float(low), float(high)


def coverage_range(shares: Sequence[Share], tail: float = 0.05) -> tuple[float, float]:
    """The range in which the coverage measured on all test cases lies 95 % of the time, by chance alone.

    It is for scores without ties. Shares are independent, so the number of covered cases is the sum of theirs.
    """
    from scipy.signal import convolve

    chances = reduce(convolve, (share.chances() for share in shares))
    low, high = np.searchsorted(np.cumsum(chances), [tail / 2, 1 - tail / 2])
    tested = len(chances) - 1
    return float(low / tested), float(high / tested)
