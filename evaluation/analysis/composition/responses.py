"""Responses of a loss to the mixture of data: linear, the exponential law, Scheffe's quadratic, boosted trees.

The shares r of the groups sum to 1, so a constant is the same as equal weights for all shares. Each form has only one
of the two.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from biovfm_hf.errors import require

BOOSTING_RUNS = 64  # on RegMix's own runs, trees begin to beat the linear response at this number of runs
RIDGE = 1e-3  # for Scheffe's quadratic, whose products are nearly collinear
FLOORS = (
    0.02,
    0.1,
    0.3,
    1.0,
    3.0,
)  # starts of the exponential law: distance of its floor below the lowest loss, in ranges of the losses

Response = Callable[[np.ndarray], np.ndarray]  # from shares (n, M) to losses (n,)


def fit_linear(shares: np.ndarray, losses: np.ndarray) -> Response:
    """A constant plus a weight for each share; the smallest weights among equally good ones."""
    centre, level = shares.mean(axis=0), losses.mean()
    weights = np.linalg.lstsq(shares - centre, losses - level, rcond=None)[0]
    return lambda r: (r - centre) @ weights + level


def scheffe_terms(shares: np.ndarray) -> np.ndarray:
    """Shares and their pairwise products, (n, M (M + 1) / 2)."""
    first, second = np.triu_indices(shares.shape[1], 1)
    return np.concatenate([shares, shares[:, first] * shares[:, second]], axis=1)


def fit_scheffe(shares: np.ndarray, losses: np.ndarray) -> Response:
    """Scheffe's (1958) quadratic, sum b_i r_i + sum b_ij r_i r_j without a constant, by ridge regression."""
    terms = scheffe_terms(shares.astype(np.float64))
    weights = np.linalg.solve(terms.T @ terms + RIDGE * np.eye(terms.shape[1]), terms.T @ losses)
    return lambda r: scheffe_terms(r.astype(np.float64)) @ weights


def fit_exponential(shares: np.ndarray, losses: np.ndarray) -> Response:
    """The mixing law c + exp(sum t_j r_j) (Ye et al. 2024), the best fit from several starts.

    The law's factor k is contained in t: since the shares sum to 1, it adds the same constant to every t.
    """
    from scipy.optimize import least_squares

    shares, spread = shares.astype(np.float64), max(float(np.ptp(losses)), 1e-9)

    def residuals(values: np.ndarray) -> np.ndarray:
        return values[0] + np.exp(np.minimum(shares @ values[1:], 50)) - losses

    def slopes(values: np.ndarray) -> np.ndarray:
        rise = np.exp(np.minimum(shares @ values[1:], 50))
        return np.concatenate([np.ones((len(shares), 1)), rise[:, None] * shares], axis=1)

    fits = []
    for floor in losses.min() - spread * np.array(FLOORS):
        start = np.linalg.lstsq(shares, np.log(losses - floor), rcond=None)[0]
        fits.append(least_squares(residuals, np.r_[floor, start], jac=slopes, x_scale="jac", max_nfev=200))
    best = min(fits, key=lambda fit: fit.cost).x
    return lambda r: best[0] + np.exp(np.minimum(r @ best[1:], 50))


def fit_boosting(shares: np.ndarray, losses: np.ndarray) -> Response:
    """Gradient-boosted trees as in RegMix (Liu et al. 2024), here from scikit-learn; they need many runs."""
    ensemble = require("sklearn.ensemble", "eval")
    model = ensemble.HistGradientBoostingRegressor(random_state=0).fit(shares, losses)
    return model.predict


@dataclass(frozen=True)
class Form:
    """A form of response: its fit, its number of parameters for M groups, and the least number of runs it needs."""

    fit: Callable[[np.ndarray, np.ndarray], Response]
    parameters: Callable[[int], int | None]
    least_runs: int = 0


RESPONSES: dict[str, Form] = {
    "linear": Form(fit_linear, lambda groups: groups),
    "exponential": Form(fit_exponential, lambda groups: groups + 1),
    "scheffe": Form(fit_scheffe, lambda groups: groups * (groups + 1) // 2),
    "boosting": Form(fit_boosting, lambda groups: None, BOOSTING_RUNS),
}


def fit_quality(predicted: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """Mean absolute error, R2 and Spearman's rank correlation between predictions (n,) and losses (n,)."""
    from scipy.stats import spearmanr

    rest, spread = ((losses - predicted) ** 2).sum(), ((losses - losses.mean()) ** 2).sum()
    rank = float(spearmanr(predicted, losses).statistic) if np.ptp(predicted) > 0 and np.ptp(losses) > 0 else 0.0
    return {"mae": float(np.abs(losses - predicted).mean()), "r2": float(1 - rest / max(spread, 1e-300)),
            "spearman": rank}  # fmt: skip
