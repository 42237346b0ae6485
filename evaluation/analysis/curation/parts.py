"""K-means with very many clusters: coarse parts first, then clusters within each part (Vo et al. 2024, appendix).

Each part is a separate piece of work: processes share the parts, and a killed run continues with the remaining ones.
"""

import mmap

import numpy as np

from .kmeans import Assignment, assign, lloyd, seed_centroids
from .shares import allot
from .sharing import Sharing

COARSE_STEPS, PART_STEPS = 50, 20
COARSE_ROWS = 256  # rows per part, from which the centroids of the parts are computed
PASS_ROWS = 1 << 18  # rows that are assigned to parts as one piece of work
PART_BYTES = 1 << 30  # larger parts are read from disk in blocks


def cluster_by_parts(points: np.ndarray, k: int, seed: int, sharing: Sharing) -> tuple[np.ndarray, Assignment]:
    """`k` centroids (k, D) float32 of points (n, D), and for each point the nearest centroid in its part.

    There are about sqrt(k) parts. Each gets the same number of clusters, as long as it has enough points.
    """
    parts = _parts(points, round(k**0.5), seed, sharing)
    sizes = np.bincount(parts)
    order, ends = np.argsort(parts, kind="stable"), np.cumsum(sizes)
    counts = allot(sizes, k, np.random.default_rng(seed))
    last = np.cumsum(counts)
    centroids = sharing.array(f"centroids-{k}", (k, points.shape[1]), np.float32)
    labels = sharing.array(f"labels-{k}", (len(points),), np.int32)
    distances = sharing.array(f"distances-{k}", (len(points),), np.float64)
    _expect_scattered_reads(points)
    for part in sharing.pieces(f"clusters-{k}", len(sizes)):
        if not sizes[part]:
            continue
        rows, first = order[ends[part] - sizes[part] : ends[part]], last[part] - counts[part]
        centroids[first : last[part]], own = _cluster_part(points, rows, int(counts[part]), seed + part)
        labels[rows], distances[rows] = own.labels + first, own.distances
    return centroids, Assignment(labels, distances)


def _expect_scattered_reads(points: np.ndarray) -> None:
    """Keep the system from reading ahead: it would fetch 128 KiB for each row of a part."""
    if isinstance(points.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        points.base.madvise(mmap.MADV_RANDOM)


def _parts(points: np.ndarray, count: int, seed: int, sharing: Sharing) -> np.ndarray:
    """The part (n,) of each point, by k-means on a sample."""
    rows = np.random.default_rng(seed).permutation(len(points))[: count * COARSE_ROWS]
    some = np.asarray(points[np.sort(rows)])
    centroids = lloyd(some, seed_centroids(some, count, seed), COARSE_STEPS)
    parts = sharing.array(f"parts-{count}", (len(points),), np.int32)
    for piece in sharing.pieces(f"passes-{count}", -(-len(points) // PASS_ROWS)):
        place = slice(piece * PASS_ROWS, (piece + 1) * PASS_ROWS)
        parts[place] = assign(points[place], centroids).labels
    return parts


def _cluster_part(points: np.ndarray, rows: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, Assignment]:
    """Centroids (k, D) of some rows of points, and the nearest centroid to each row."""
    read: np.ndarray | None = rows
    if len(rows) * points.shape[1] * points.itemsize <= PART_BYTES:
        points, read = points[rows], None
    centroids = lloyd(points, seed_centroids(points, k, seed, read), PART_STEPS, read)
    return centroids, assign(points, centroids, read)
