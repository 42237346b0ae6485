"""Tests that use repeated runs with several seeds: whether mixtures differ at all, and whether a response fits."""

from dataclasses import dataclass
from typing import Any

import numpy as np

TOLERANCE = 1e-6  # shares within it are the same mixture
FEW = "no mixture was run with three seeds or more, so mixtures cannot be compared with chance"


@dataclass(frozen=True)
class Repeats:
    """Runs grouped by mixture.

    Attributes:
        which: (n,) index of each run's mixture.
        within: sum of squares of the scores within mixtures.
        free: degrees of freedom of `within`.
    """

    which: np.ndarray
    within: float
    free: int

    @property
    def variance(self) -> float:
        """Variance of the score between seeds of the same mixture."""
        return self.within / self.free


def find_repeats(shares: np.ndarray, scores: np.ndarray) -> Repeats:
    """Group runs with shares (n, groups) by mixture, and measure how their scores (n,) vary within a mixture."""
    rounded = np.round(shares / TOLERANCE).astype(np.int64)
    which = np.unique(rounded, axis=0, return_inverse=True)[1].reshape(-1)
    means = np.bincount(which, scores) / np.bincount(which)
    return Repeats(which, float(((scores - means[which]) ** 2).sum()), len(scores) - len(means))


def mixtures_differ(shares: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Analysis of variance between mixtures, against the variation between seeds.

    Returns:
        {"seed_sd", "f", "p"}, or {"reason"} if too few mixtures were run with several seeds.
    """
    from scipy.stats import f

    repeats = find_repeats(shares, scores)
    mixtures = int(repeats.which.max()) + 1
    if repeats.free < 2 or mixtures < 2 or repeats.within <= 0:
        return {"reason": FEW}
    between = float(((scores - scores.mean()) ** 2).sum()) - repeats.within
    ratio = between / (mixtures - 1) / repeats.variance
    return {"seed_sd": repeats.variance**0.5, "f": ratio, "p": float(f.sf(ratio, mixtures - 1, repeats.free))}


def lack_of_fit(
    shares: np.ndarray, scores: np.ndarray, predicted: np.ndarray, parameters: int | None
) -> dict[str, Any]:
    """Test whether scores lie further from a response than seeds explain (Box & Draper 1987); if so, p is small.

    Args:
        shares: (n, groups) shares of the fitted runs.
        scores: (n,) scores of the fitted runs.
        predicted: (n,) scores that the response predicts.
        parameters: number of fitted parameters; None if they cannot be counted.

    Returns:
        {"f", "p"}, or {"reason"} if there is no test.
    """
    from scipy.stats import f

    repeats = find_repeats(shares, scores)
    free = int(repeats.which.max()) + 1 - (parameters or 0)
    if repeats.free < 2 or repeats.within <= 0:
        return {"reason": FEW}
    if parameters is None or free < 1:
        return {"reason": "the response has as many numbers as there are mixtures, or none that can be counted"}
    lacking = max(float(((scores - predicted) ** 2).sum()) - repeats.within, 0.0)
    ratio = lacking / free / repeats.variance
    return {"f": ratio, "p": float(f.sf(ratio, free, repeats.free))}
