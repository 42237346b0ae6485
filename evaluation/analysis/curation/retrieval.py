"""Retrieves the images of a pool most similar to your own, in turns (Oquab et al. 2024, appendix A)."""

import numpy as np

from biovfm_hf.errors import UserError

from .kmeans import feature_blocks
from .sharing import ALONE, Sharing

QUERIES = 1024  # own images for which the pool is read once, as one piece of work
TILE_QUERIES = 128  # own images that are compared with a block of the pool at once: 32 MiB of cosines


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, D) scaled to length 1, float32."""
    wide = np.asarray(vectors, np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def neighbours(
    features: np.ndarray, queries: np.ndarray, count: int, sharing: Sharing = ALONE
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows of features (n, D) with the highest cosine similarity to each query (Q, D), best first.

    Processes share the queries, QUERIES at a time. Of equally similar rows the first counts as nearer.

    Returns:
        Row indices (Q, count) and cosine similarities (Q, count).

    Raises:
        UserError: features and queries have different widths.
    """
    if features.shape[1] != queries.shape[1]:
        raise UserError(f"features of {features.shape[1]} and {queries.shape[1]} numbers; embed both with one model")
    count = min(count, len(features))
    rows = sharing.array("like-rows", (len(queries), count), np.int64)
    cosines = sharing.array("like-cosines", (len(queries), count), np.float32)
    for piece in sharing.pieces("like-nearest", -(-len(queries) // QUERIES)):
        some = slice(piece * QUERIES, (piece + 1) * QUERIES)
        rows[some], cosines[some] = _nearest(features, unit(queries[some]), count)
    return rows, cosines


def _nearest(features: np.ndarray, targets: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows (q, count) of features most similar to each of some unit targets (q, D), and the cosines (q, count)."""
    starts = range(0, len(targets), TILE_QUERIES)
    best = [(np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32))] * len(starts)
    for place, block in feature_blocks(features):
        scaled = unit(block).T
        for number, start in enumerate(starts):
            cosines = targets[start : start + TILE_QUERIES] @ scaled
            best[number] = _merged(*best[number], cosines, place.start, count)
    rows, similar = zip(*best, strict=True)
    return np.concatenate(rows), np.concatenate(similar)


def _merged(
    rows: np.ndarray, cosines: np.ndarray, block: np.ndarray, first: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows (q, <= count) found so far, with those of a block of cosines (q, B) that begins at row `first`.

    Only cosines above the least one found so far are sorted, which after the first blocks are few.
    """
    if rows.shape[1] == count:
        query, place = np.nonzero(block > cosines[:, -1:])
    elif block.shape[1] > count:
        query, place = np.nonzero(block >= np.partition(block, -count, axis=1)[:, -count, None])
    else:
        query, place = np.nonzero(np.ones(block.shape, bool))
    known = np.repeat(np.arange(len(rows)), rows.shape[1])
    queries = np.concatenate([known, query])
    all_rows = np.concatenate([rows.ravel(), place + first])
    similar = np.concatenate([cosines.ravel(), block[query, place]])
    order = np.lexsort((-similar, queries))
    starts = np.searchsorted(queries[order], np.arange(len(block)))
    best = order[np.arange(len(order)) - starts[queries[order]] < count]
    return all_rows[best].reshape(len(block), -1), similar[best].reshape(len(block), -1)


def retrieve(features: np.ndarray, queries: np.ndarray, keep: int, count: int, sharing: Sharing = ALONE) -> np.ndarray:
    """At most `keep` distinct rows, sorted.

    The first turn takes the nearest row of every query, the second turn the second nearest, up to the `count`-th.
    Within a turn the most similar rows come first.
    """
    rows, cosines = neighbours(features, queries, count, sharing)
    chosen: dict[int, None] = {}
    for turn in range(rows.shape[1]):
        for query in np.argsort(-cosines[:, turn], kind="stable"):
            if len(chosen) < keep:
                chosen.setdefault(int(rows[query, turn]))
    return np.sort(np.array(list(chosen), np.int64))
