"""K-means over features larger than memory: rows are read in blocks, sums are kept in float64."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

BLOCK_ROWS = 65536
TILE_CENTROIDS = 4096  # centroids compared at once; the distances of a block stay within 1 GiB in float32
SEEDING_ROWS = 64  # rows per cluster from which k-means++ chooses


class Assignment(NamedTuple):
    """The nearest centroid (n,) int32 of each row, and its squared distance (n,) float64."""

    labels: np.ndarray
    distances: np.ndarray


def feature_blocks(features: np.ndarray, rows: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of features (n, D), or of some of its rows: the slice of each block and its values (B, D)."""
    count = len(features) if rows is None else len(rows)
    kind = np.float64 if features.dtype == np.float64 else np.float32
    for start in range(0, count, BLOCK_ROWS):
        place = slice(start, min(start + BLOCK_ROWS, count))
        yield place, np.asarray(features[place] if rows is None else features[rows[place]], kind)


def assign(features: np.ndarray, centroids: np.ndarray, rows: np.ndarray | None = None) -> Assignment:
    """Nearest centroid (k, D) of each row by L2 distance; ties go to the first."""
    count = len(features) if rows is None else len(rows)
    labels, distances = np.zeros(count, np.int32), np.zeros(count)
    for place, block in feature_blocks(features, rows):
        labels[place], gaps = _nearest(block, centroids)
        distances[place] = np.einsum("nd,nd->n", block, block, dtype=np.float64) + gaps
    return Assignment(labels, np.maximum(distances, 0))


def _nearest(block: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid (n,) int32 of each row, and its squared distance (n,) minus the row's squared norm."""
    labels, least = np.zeros(len(block), np.int32), np.full(len(block), np.inf, block.dtype)
    for start in range(0, len(centroids), TILE_CENTROIDS):
        tile = centroids[start : start + TILE_CENTROIDS].astype(block.dtype)
        gaps = block @ (-2 * tile.T)
        gaps += np.einsum("kd,kd->k", tile, tile)
        best = gaps.argmin(axis=1)
        nearest = gaps[np.arange(len(block)), best]
        closer = nearest < least
        labels[closer], least[closer] = best[closer] + start, nearest[closer]
    return labels, least


def _step(features: np.ndarray, old: np.ndarray, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """One step of Lloyd's algorithm: each row's nearest centroid (n,), and the means (k, D) float64 of their rows.

    An empty cluster keeps its old centroid. A block is summed by a sparse product in its own precision (at most 65,536
    rows), the blocks in float64.
    """
    sums, labels = np.zeros(old.shape, np.float64), []
    for _, block in feature_blocks(features, rows):
        own, _ = _nearest(block, old)
        member = (np.ones(len(own), block.dtype), (own, np.arange(len(own))))
        sums += csr_array(member, shape=(len(old), len(own))) @ block
        labels.append(own)
    nearest = np.concatenate(labels)
    counts = np.bincount(nearest, minlength=len(old))[:, None]
    return nearest, np.where(counts > 0, sums / np.maximum(counts, 1), old)


def seed_centroids(features: np.ndarray, k: int, seed: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Centroids (k, D) by greedy k-means++ (Arthur & Vassilvitskii 2007) on at most 64 rows per cluster."""
    from sklearn.cluster import kmeans_plusplus

    pool = np.arange(len(features)) if rows is None else rows
    if len(pool) > k * SEEDING_ROWS:
        pool = np.sort(np.random.default_rng(seed).choice(pool, k * SEEDING_ROWS, replace=False))
    chosen, _ = kmeans_plusplus(np.asarray(features[pool], np.float64), k, random_state=seed)
    return chosen


def lloyd(features: np.ndarray, centroids: np.ndarray, steps: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Centroids (k, D) after at most `steps` steps of Lloyd's algorithm; it ends when no row changes its cluster."""
    before = None
    for _ in range(steps):
        labels, moved = _step(features, centroids, rows)
        if before is not None and np.array_equal(labels, before):
            break
        centroids, before = moved, labels
    return centroids
