"""Tests from repeated runs with several seeds: whether mixtures differ at all, and whether a response fits."""

from dataclasses import dataclass
from typing import Any

import numpy as np

TOLERANCE = 1e-6  # within which shares are the same mixture
FEW = "no mixture was run with three seeds or more, so mixtures cannot be compared with chance"


@dataclass(frozen=True)
class Repeats:
    """Runs by mixture: `which` (n,) the number of each run's mixture, and the sum of squares within mixtures."""

    which: np.ndarray
    within: float
    free: int  # degrees of freedom of `within`

    @property
    def variance(self) -> float:
        """Variance of the score between seeds."""
        return self.within / self.free


def find_repeats(shares: np.ndarray, scores: np.ndarray) -> Repeats:
    """Which runs (n, groups) are of one mixture, and how their scores (n,) spread within mixtures."""
    rounded = np.round(shares / TOLERANCE).astype(np.int64)
    which = np.unique(rounded, axis=0, return_inverse=True)[1].reshape(-1)
    means = np.bincount(which, scores) / np.bincount(which)
    return Repeats(which, float(((scores - means[which]) ** 2).sum()), len(scores) - len(means))


def mixtures_differ(shares: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Analysis of variance of mixtures against seeds.

    Returns:
        {"seed_sd", "f", "p"}, or {"reason"} where too few mixtures were run again.
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
    """Whether scores lie further from a response than seeds explain (Box & Draper 1987): a small p says that they do.

    Args:
        shares: (n, groups) of the fitted runs.
        scores: (n,).
        predicted: (n,) by the response.
        parameters: that were fitted; None if they cannot be counted.

    Returns:
        {"f", "p"}, or {"reason"}.
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
