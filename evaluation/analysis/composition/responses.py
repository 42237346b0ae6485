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
STEPS, TOLERANCE = 1000, 1e-8  # most steps of the exponential law's fit; relative fall of its squares that ends it

Response = Callable[[np.ndarray], np.ndarray]  # from shares (m, M) to losses (m,), or (B, m) if B were fitted at once

# Each fit takes shares (n, M) and losses (n,), or (B, n) for B fits at once, such as those of resamples.


def fit_linear(shares: np.ndarray, losses: np.ndarray) -> Response:
    """A constant plus a weight for each share; the smallest weights among equally good ones."""
    centre, level = shares.mean(axis=0), losses.mean(axis=-1, keepdims=True)
    weights = np.linalg.lstsq(shares - centre, (losses - level).T, rcond=None)[0]
    return lambda r: ((r - centre) @ weights).T + level


def scheffe_terms(shares: np.ndarray) -> np.ndarray:
    """Shares and their pairwise products, (n, M (M + 1) / 2)."""
    first, second = np.triu_indices(shares.shape[1], 1)
    return np.concatenate([shares, shares[:, first] * shares[:, second]], axis=1)


def fit_scheffe(shares: np.ndarray, losses: np.ndarray) -> Response:
    """Scheffe's (1958) quadratic, sum b_i r_i + sum b_ij r_i r_j without a constant, by ridge regression."""
    terms = scheffe_terms(shares.astype(np.float64))
    weights = np.linalg.solve(terms.T @ terms + RIDGE * np.eye(terms.shape[1]), terms.T @ losses.T)
    return lambda r: (scheffe_terms(r.astype(np.float64)) @ weights).T


def fit_exponential(shares: np.ndarray, losses: np.ndarray) -> Response:
    """The mixing law c + exp(sum t_j r_j) (Ye et al. 2024), the best fit from several starts.

    The law's factor k is contained in t: since the shares sum to 1, it adds the same constant to every t.
    """
    shares, goal = shares.astype(np.float64), np.atleast_2d(losses)
    spread = np.maximum(np.ptp(goal, axis=1), 1e-9)
    floors = (goal.min(axis=1) - np.array(FLOORS)[:, None] * spread).ravel()  # start by start, each for every fit
    goals = np.tile(goal, (len(FLOORS), 1))
    rates = np.linalg.lstsq(shares, np.log(goals - floors[:, None]).T, rcond=None)[0].T
    values, costs = _descend(shares, goals, np.column_stack([floors, rates]))
    first = costs.reshape(len(FLOORS), -1).argmin(axis=0)
    best = values.reshape(len(FLOORS), len(goal), -1)[first, np.arange(len(goal))]
    return lambda r: _law(r, best).reshape(*losses.shape[:-1], len(r))


def _law(shares: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Losses (B, n) of shares (n, M) by the exponential law with the numbers (c, t_1 .. t_M), (B, M + 1)."""
    return values[:, :1] + np.exp(np.minimum(values[:, 1:] @ shares.T, 50))


def _descend(shares: np.ndarray, losses: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the exponential law by Levenberg's and Marquardt's method, all rows of `values` (B, M + 1) at once.

    Returns:
        The fitted values, and the sum of squares (B,) of each.
    """
    values, damping = values.copy(), np.full(len(values), 1e-3)
    costs = ((_law(shares, values) - losses) ** 2).sum(axis=1)
    going = np.arange(len(values))
    for _ in range(STEPS):
        gaps = _law(shares, values[going]) - losses[going]
        slopes = np.concatenate(
            [np.ones((*gaps.shape, 1)), (gaps + losses[going] - values[going, :1])[..., None] * shares], axis=2
        )
        square = slopes.transpose(0, 2, 1) @ slopes
        diagonal = np.einsum("bpp->bp", square)
        diagonal += damping[going, None] * diagonal + 1e-12
        step = np.linalg.solve(square, slopes.transpose(0, 2, 1) @ gaps[..., None])[..., 0]
        tried = values[going] - step
        cost = ((_law(shares, tried) - losses[going]) ** 2).sum(axis=1)
        better = cost < costs[going]
        done = better & (costs[going] - cost <= TOLERANCE * costs[going]) | (damping[going] > 1e12)
        values[going[better]], costs[going[better]] = tried[better], cost[better]
        damping[going] *= np.where(better, 1 / 3, 4)
        going = going[~done]
        if not len(going):
            break
    return values, costs


def fit_boosting(shares: np.ndarray, losses: np.ndarray) -> Response:
    """Gradient-boosted trees as in RegMix (Liu et al. 2024), here from scikit-learn; they need many runs."""
    ensemble = require("sklearn.ensemble", "eval")
    models = [
        ensemble.HistGradientBoostingRegressor(random_state=0).fit(shares, goal) for goal in np.atleast_2d(losses)
    ]
    return lambda r: np.stack([model.predict(r) for model in models]).reshape(*losses.shape[:-1], len(r))


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
