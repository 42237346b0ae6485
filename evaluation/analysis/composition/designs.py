"""Designs of mixtures: which shares of the groups to pretrain on, so that a response can be fitted."""

from itertools import combinations
from math import comb

import numpy as np

from biovfm_hf.errors import UserError

MAX_POINTS = 10_000
STRENGTHS = np.geomspace(0.1, 5, 15)  # concentrations of the Dirichlet draws (Liu et al. 2024, RegMix)
LEAST_SHARE = 2e-4  # every share is a multiple of it; smaller shares become 0
MAX_EPOCHS = 15  # a share is at most this many times the natural one
OVERSAMPLED = 100


def lattice(groups: int, degree: int) -> np.ndarray:
    """The simplex lattice {groups, degree} (Scheffe 1958): all mixtures of multiples of 1 / degree, and the centroid.

    Returns:
        (C(groups + degree - 1, degree) + 1, groups), or one row fewer where the centroid is a lattice point.

    Raises:
        UserError: the lattice has more than 10,000 mixtures.
    """
    if comb(groups + degree - 1, degree) > MAX_POINTS:
        raise UserError(f"a lattice of {groups} groups and degree {degree} has too many mixtures; lower the degree")
    bars = combinations(range(groups + degree - 1), groups - 1)
    edges = np.array([(-1, *places, groups + degree - 1) for places in bars])
    shares = (np.diff(edges, axis=1) - 1) / degree
    centroid = np.full((1, groups), 1 / groups)
    return shares if (np.abs(shares - centroid).max(axis=1) < 1e-12).any() else np.concatenate([shares, centroid])


def dirichlet(natural: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Draw mixtures around the natural shares, as RegMix does (Liu et al. 2024): (count, groups), all distinct.

    The Dirichlet prior is the square root of the natural shares. Each draw takes one of 15 strengths from 0.1 to 5. A
    draw is rejected if one of its shares is more than 15 times the natural one.

    Args:
        natural: (groups,) natural shares or numbers of images.
        count: number of mixtures.
        seed: random seed of the draws.

    Raises:
        UserError: not enough distinct mixtures can be drawn.
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


def limits_of(images: np.ndarray, seen: float, epochs: float = MAX_EPOCHS) -> np.ndarray:
    """The highest share (groups,) of each group in a run that sees `seen` images: `epochs` passes over its `images`.

    Raises:
        UserError: all groups together have too few images for such a run.
    """
    limits = np.minimum(epochs * np.asarray(images, np.float64) / seen, 1.0)
    if limits.sum() < 1:
        raise UserError(
            f"{seen:,.0f} images seen are more than {epochs:g} passes over all {images.sum():,.0f} images; train for "
            "fewer, or allow more epochs"
        )
    return limits


def within_limits(shares: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Shares (n, groups), none above its limit. The excess goes to the other groups in proportion to their shares.

    If the other groups have no share, the excess is divided in proportion to the room below their limits.
    """
    shares = np.array(shares, np.float64)
    for _ in range(len(limits)):
        over = np.maximum(shares - limits, 0).sum(axis=1, keepdims=True)
        if not (over > 1e-12).any():
            break
        shares = np.minimum(shares, limits)
        room = limits - shares
        open_shares = np.where(room > 1e-12, shares, 0)
        total = open_shares.sum(axis=1, keepdims=True)
        free = room / np.maximum(room.sum(axis=1, keepdims=True), 1e-12)
        shares += over * np.where(total > 1e-12, open_shares / np.maximum(total, 1e-12), free)
    return shares


def distinct(shares: np.ndarray, others: np.ndarray | None = None, apart: float = 1e-6) -> np.ndarray:
    """Those shares (n, groups) that differ from earlier rows and `others` by more than `apart`, summed over groups."""
    kept: list[np.ndarray] = []
    before = [] if others is None else list(others)
    for row in shares:
        if all(np.abs(row - other).sum() > apart for other in (*before, *kept)):
            kept.append(row)
    return np.array(kept).reshape(len(kept), shares.shape[1])


def held_out_draws(
    design: np.ndarray, limits: np.ndarray, count: int, seed: int = 0, apart: float = 0.15
) -> np.ndarray:
    """Mixtures (count, groups) for testing responses, drawn uniformly within the limits and away from the design.

    Args:
        design: (n, groups) mixtures that responses are fitted to.
        limits: (groups,) highest share of each group.
        count: number of mixtures.
        seed: random seed of the draws.
        apart: least distance from the design and between two draws, summed over groups.

    Raises:
        UserError: the limits leave no room for so many mixtures.
    """
    random = np.random.default_rng([seed, 1])
    drawn = within_limits(random.dirichlet(np.ones(design.shape[1]), 200 * max(count, 1)), limits)
    kept = distinct(np.round(drawn, 4), design, apart)[:count]
    if len(kept) < count:
        raise UserError(f"only {len(kept)} mixtures lie apart from the design, not {count}; ask for fewer held out")
    return kept / kept.sum(axis=1, keepdims=True)
