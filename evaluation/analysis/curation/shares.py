"""Numbers of rows to take from each cluster: the same number from every cluster that has enough rows."""

import numpy as np


def cut(sizes: np.ndarray, target: int) -> int:
    """The largest integer c with sum of min(size, c) at most `target`; the largest size if all rows fit."""
    low, high = 0, int(np.max(sizes, initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= target else (low, middle - 1)
    return low


def allot(sizes: np.ndarray, target: int, random: np.random.Generator) -> np.ndarray:
    """Rows to take from each child: min(size, cut), plus one from random larger children until there are `target`."""
    level = cut(sizes, target)
    shares = np.minimum(sizes, level)
    larger = np.flatnonzero(sizes > level)
    shares[random.permutation(larger)[: max(target - int(shares.sum()), 0)]] += 1
    return shares
