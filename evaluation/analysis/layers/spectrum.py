"""Rank and intrinsic dimension of features: from their singular values, and from nearest neighbours."""

import numpy as np

RANKME_EPSILON = 1e-7
TWONN_DISCARDED = 0.1  # share of the ratios, the largest ones, that the fit leaves out
NEIGHBOURS = 20


def _shares(features: np.ndarray, centred: bool) -> np.ndarray:
    wide = features.astype(np.float64)
    values = np.linalg.svd(wide - wide.mean(axis=0) if centred else wide, compute_uv=False)
    return values / max(values.sum(), 1e-300)


def rankme(features: np.ndarray, centred: bool = False) -> float:
    """RankMe (Garrido et al. 2023): exp of the entropy of the singular values' shares, each plus 1e-7.

    Uncentred, as published, it is dominated by the mean if features were not normalised. It depends on the number of
    images n, which should be many times D.

    Args:
        features: (n, D) features.
        centred: subtract the mean first.
    """
    shares = _shares(features, centred) + RANKME_EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def effective_rank(features: np.ndarray) -> float:
    """Effective rank (Roy & Vetterli 2007) of centred features (n, D): RankMe without its constant."""
    shares = _shares(features, centred=True)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def participation_ratio(features: np.ndarray) -> float:
    """(tr C)^2 / tr C^2 of the covariance C of features (n, D); about 1 if one channel has much larger values."""
    squares = _shares(features, centred=True) ** 2
    return float(squares.sum() ** 2 / max((squares**2).sum(), 1e-300))


def nearest_distances(features: np.ndarray, count: int) -> np.ndarray:
    """Distances (m, count) of each distinct row of features (n, D) to its nearest others, ascending."""
    from sklearn.neighbors import NearestNeighbors

    distinct = np.unique(features.astype(np.float64), axis=0)
    count = min(count, len(distinct) - 1)
    if count < 1:
        return np.zeros((len(distinct), 0))
    return NearestNeighbors(n_neighbors=count).fit(distinct).kneighbors()[0]


def two_nn(features: np.ndarray) -> float:
    """TwoNN's intrinsic dimension (Facco et al. 2017): slope through 0 of -ln(1 - F) on ln(r2 / r1).

    F is i / n for the i-th sorted ratio (i from 0); the largest tenth is left out. Repeated rows count once. NaN with
    fewer than 3 rows.
    """
    distances = nearest_distances(features, 2)
    if distances.shape[1] < 2:
        return float("nan")
    ratios = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    n = len(ratios)
    kept = ratios[: int(n * (1 - TWONN_DISCARDED))]
    heights = -np.log(1 - np.arange(len(kept)) / n)
    return float(kept @ heights / max(kept @ kept, 1e-300))


def mle_dimension(features: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """Levina and Bickel's (2004) dimension with MacKay and Ghahramani's (2005) mean of inverses over the rows (n, D).

    Each row's inverse is the mean of ln(r_k / r_j), j = 1..k - 1. NaN with fewer than 3 rows.
    """
    distances = nearest_distances(features, neighbours)
    if distances.shape[1] < 2:
        return float("nan")
    inverses = np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1)
    return float(1 / inverses.mean()) if inverses.mean() > 0 else float("nan")
