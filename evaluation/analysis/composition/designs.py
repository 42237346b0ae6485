"""Designs of mixtures: which shares of the groups to pretrain on, so that a response can be fitted."""

from itertools import combinations
from math import comb

import numpy as np

from biovfm_hf.errors import UserError

MAX_POINTS = 10_000
STRENGTHS = np.geomspace(0.1, 5, 15)  # of Dirichlet draws (Liu et al. 2024, RegMix)
LEAST_SHARE = 2e-4  # smaller shares are left out, and shares are multiples of it
MAX_EPOCHS = 15  # no share above so many times the natural one
OVERSAMPLED = 100


def lattice(groups: int, degree: int) -> np.ndarray:
    """The simplex lattice {groups, degree} (Scheffe 1958): all multiples of 1 / degree, and the centroid.

    Returns:
        (C(groups + degree - 1, degree) + 1, groups), or one fewer where the centroid is among them.

    Raises:
        UserError: that would be more than 10,000 mixtures.
    """
    if comb(groups + degree - 1, degree) > MAX_POINTS:
        raise UserError(f"a lattice of {groups} groups and degree {degree} has too many mixtures; lower the degree")
    bars = combinations(range(groups + degree - 1), groups - 1)
    edges = np.array([(-1, *places, groups + degree - 1) for places in bars])
    shares = (np.diff(edges, axis=1) - 1) / degree
    centroid = np.full((1, groups), 1 / groups)
    return shares if (np.abs(shares - centroid).max(axis=1) < 1e-12).any() else np.concatenate([shares, centroid])


def dirichlet(natural: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Draws around the natural shares as RegMix makes them (Liu et al. 2024): (count, groups), distinct.

    The prior is the square root of the natural shares; its strength is one of 15 from 0.1 to 5, drawn anew each time.
    A draw is refused where a share is above 15 times the natural one.

    Args:
        natural: (groups,) shares or numbers of images.
        count: how many.
        seed: of the draws.

    Raises:
        UserError: fewer distinct mixtures than that can be drawn.
    """
    random = np.random.default_rng(seed)
    shares = natural / natural.sum()
    prior = np.sqrt(shares) / np.sqrt(shares).sum()
    drawn = np.stack([random.dirichlet(prior * strength * len(shares) + 1e-9)
                      for strength in random.choice(STRENGTHS, OVERSAMPLED * count)])  # fmt: skip
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    drawn = drawn[(drawn <= MAX_EPOCHS * shares).all(axis=1)]
    drawn = np.where(drawn < LEAST_SHARE, 0, drawn)
    drawn = np.round(drawn / drawn.sum(axis=1, keepdims=True) / LEAST_SHARE) * LEAST_SHARE
    drawn = np.unique(drawn / drawn.sum(axis=1, keepdims=True), axis=0)
    if len(drawn) < count:
        raise UserError(f"only {len(drawn)} distinct mixtures of {count} could be drawn; ask for fewer")
    return drawn[random.permutation(len(drawn))[:count]]
