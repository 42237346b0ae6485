"""Retrieves the images of a pool most similar to your own, in turns (Oquab et al. 2024, appendix A)."""

import numpy as np

from biovfm_hf.errors import UserError

from .kmeans import blocks


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, D) scaled to length 1, float32."""
    wide = np.asarray(vectors, np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def neighbours(features: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows of features (n, D) with the highest cosine similarity to each query (Q, D), best first.

    Returns:
        Row indices (Q, count) and cosine similarities (Q, count).

    Raises:
        UserError: features and queries have different widths.
    """
    if features.shape[1] != queries.shape[1]:
        raise UserError(f"features of {features.shape[1]} and {queries.shape[1]} numbers; embed both with one model")
    count, targets = min(count, len(features)), unit(queries)
    rows = np.zeros((len(queries), 0), np.int64)
    cosines = np.zeros((len(queries), 0), np.float32)
    for place, block in blocks(features):
        rows = np.concatenate(
            [rows, np.broadcast_to(np.arange(place.start, place.stop), (len(queries), len(block)))], 1
        )
        cosines = np.concatenate([cosines, targets @ unit(block).T], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        rows, cosines = np.take_along_axis(rows, best, 1), np.take_along_axis(cosines, best, 1)
    return rows, cosines


def retrieve(features: np.ndarray, queries: np.ndarray, keep: int, count: int) -> np.ndarray:
    """At most `keep` distinct rows, sorted.

    The first turn takes the nearest row of every query, the second turn the second nearest, up to the `count`-th.
    Within a turn the most similar rows come first.
    """
    rows, cosines = neighbours(features, queries, count)
    chosen: dict[int, None] = {}
    for turn in range(rows.shape[1]):
        for query in np.argsort(-cosines[:, turn], kind="stable"):
            if len(chosen) < keep:
                chosen.setdefault(int(rows[query, turn]))
    return np.sort(np.array(list(chosen), np.int64))
