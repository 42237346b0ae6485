"""Hierarchical k-means with resampling, and balanced sampling from its tree (Vo et al. 2024, arXiv 2405.15613).

Level 1 clusters the features; each further level clusters the centroids of the level below. Resampling takes the few
rows nearest to each centroid and clusters them again, so that centroids spread evenly over the space instead of
following its density. A level of more than 1,024 clusters is clustered part by part and not resampled, like the
authors' first level of 10 million clusters (100,000 parts of 100). Sampling goes down the tree and takes the same
number of rows from every child that has enough.
"""

from dataclasses import dataclass

import numpy as np

from biovfm_hf.errors import UserError

from .kmeans import Assignment, assign, lloyd, seed_centroids
from .parts import cluster_by_parts
from .shares import allot
from .sharing import ALONE, Sharing

LLOYD_STEPS = 50
FLAT_CLUSTERS = 1024  # a level of more clusters is made part by part


@dataclass(frozen=True)
class Tree:
    """Clusters of clusters.

    Attributes:
        assignments: for level 1, the cluster (n,) of each row; for a further level, the cluster of each cluster below.
        distances: (n,) squared distance of each row to its centroid of level 1.
    """

    assignments: list[np.ndarray]
    distances: np.ndarray

    def sizes(self) -> list[np.ndarray]:
        """Number of rows in each cluster of each level; 0 for empty clusters."""
        levels = [np.bincount(self.assignments[0])]
        for below, labels in zip(self.assignments, self.assignments[1:], strict=False):
            sizes = np.zeros(len(labels), np.int64)
            sizes[: len(levels[-1])] = levels[-1]
            assert len(labels) > below.max()
            levels.append(np.bincount(labels, weights=sizes).astype(np.int64))
        return levels


def build_tree(
    features: np.ndarray, clusters: list[int], nearest: list[int], resamplings: int = 10, seed: int = 0,
    sharing: Sharing = ALONE,
) -> Tree:  # fmt: skip
    """Cluster features (n, D) level by level.

    Args:
        features: (n, D) floating-point; may be memory-mapped.
        clusters: number of clusters at each level, decreasing.
        nearest: rows per cluster that resampling takes, for each level; 0 or 1 skips resampling.
        resamplings: resampling rounds at each level.
        seed: random seed of the first centroids; the result also depends on the order of the rows.
        sharing: processes that share the levels of many clusters.

    Raises:
        UserError: a level has more clusters than rows to cluster.
    """
    points, assignments, distances = features, [], np.zeros(len(features))
    for level, (k, r) in enumerate(zip(clusters, nearest, strict=True)):
        if k > len(points):
            raise UserError(f"{k} clusters of {len(points)} rows at level {level + 1}; give fewer clusters")
        if k > FLAT_CLUSTERS:
            points, assignment = cluster_by_parts(points, k, seed, sharing)
        else:
            points, assignment = _cluster(points, k, r, resamplings, seed)
        assignments.append(assignment.labels)
        distances = assignment.distances if level == 0 else distances
    return Tree(assignments, distances)


def _cluster(points: np.ndarray, k: int, r: int, resamplings: int, seed: int) -> tuple[np.ndarray, Assignment]:
    """Centroids (k, D) of points (n, D), resampled, and the nearest of them to each point."""
    centroids = lloyd(points, seed_centroids(points, k, seed), LLOYD_STEPS)
    for again in range(resamplings if r > 1 else 0):
        assignment = assign(points, centroids)
        rows = nearest_rows(assignment.labels, assignment.distances, r)
        if len(rows) < k:
            break
        centroids = lloyd(points, seed_centroids(points, k, seed + again + 1, rows), LLOYD_STEPS, rows)
    return centroids, assign(points, centroids)


def nearest_rows(labels: np.ndarray, distances: np.ndarray, count: int) -> np.ndarray:
    """The `count` rows of each cluster that are nearest to its centroid, sorted."""
    order = np.lexsort((distances, labels))
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    places = np.arange(len(order)) - np.repeat(starts, sizes)
    return np.sort(order[places < count])


def sample(tree: Tree, target: int, seed: int = 0, closest: bool = False, copies: int = 1) -> np.ndarray:
    """Rows of a balanced sample, sorted; exactly `target` rows if there are as many.

    Args:
        tree: result of `build_tree`.
        target: number of rows to draw.
        seed: random seed.
        closest: take the rows nearest to their centroid instead of random ones.
        copies: how often a row may be drawn.

    Raises:
        UserError: `target` exceeds the number of rows times `copies`.
    """
    rows = len(tree.assignments[0])
    if target > rows * copies:
        raise UserError(f"{target} of {rows} rows ({copies} copies at most); ask for {rows * copies} or fewer")
    random = np.random.default_rng(seed)
    sizes = [size * copies for size in tree.sizes()]
    shares = allot(sizes[-1], target, random)
    for labels, below in zip(tree.assignments[:0:-1], sizes[-2::-1], strict=True):
        given = np.zeros(len(below), np.int64)
        for cluster in np.flatnonzero(shares):
            children = np.flatnonzero(labels[: len(below)] == cluster)
            given[children] = allot(below[children], int(shares[cluster]), random)
        shares = given
    return _take(tree, shares, random, closest)


def _take(tree: Tree, shares: np.ndarray, random: np.random.Generator, closest: bool) -> np.ndarray:
    """Rows of each level-1 cluster: first whole copies of the cluster, then the rest."""
    labels = tree.assignments[0]
    key = tree.distances if closest else random.random(len(labels))
    order = np.lexsort((key, labels))
    starts = np.searchsorted(labels[order], np.arange(len(shares) + 1))
    rows = [np.resize(order[starts[c] : starts[c + 1]], shares[c]) for c in np.flatnonzero(shares)]
    return np.sort(np.concatenate(rows)) if rows else np.zeros(0, np.int64)
