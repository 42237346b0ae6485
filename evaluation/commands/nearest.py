"""Nearest-neighbour search over vectors: exact, by a matrix product, or through a faiss index on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.writing.files import atomic_path, write_text

PROBES = 32  # cells of the index that are searched for each query
_TRAINING = 64  # training vectors per cell
_LEAST = 1000  # fewest vectors for an index
_SHORTEST = 1e-12  # the length of a vector of zeros, so that its cosines are 0


class Index:
    """A faiss index beside a features file: unit vectors in about 4 sqrt(N) cells, PROBES of which are searched.

    The index is mapped from disk, so a search reads only those cells. Its cosines are exact, but it can miss similar
    vectors in other cells. A vector that is not finite is not in it.

    Args:
        features: path of the features file.
    """

    def __init__(self, features: Path) -> None:
        self._faiss = require("faiss", "search")
        self._features = features
        self._file = features.with_name(f"{features.name}.faiss")

    @property
    def fresh(self) -> bool:
        """Whether the index belongs to the current features file, and is as it was written."""
        try:
            return bool(json.loads(self._note.read_text(encoding="utf-8")) == self._about())
        except (FileNotFoundError, ValueError):
            return False

    def _about(self) -> dict[str, list[int]]:
        """Size and time of change of the features file and of the index: a digest would need all of its bytes."""
        stamps = {"features": self._features.stat(), "index": self._file.stat()}
        return {name: [stamp.st_size, stamp.st_mtime_ns] for name, stamp in stamps.items()}

    def build(self, vectors: np.ndarray) -> None:
        """Build the index from vectors (N, D).

        Raises:
            UserError: there are too few finite vectors for an index.
        """
        finite, width = np.flatnonzero(np.isfinite(vector_lengths(vectors))), vectors.shape[1]
        count = len(finite)
        if count < _LEAST:
            raise UserError(f"{count} vectors need no index; search without --index")
        cells = round(4 * count**0.5)
        metric = self._faiss.METRIC_INNER_PRODUCT
        index = self._faiss.IndexIVFFlat(self._faiss.IndexFlatIP(width), width, cells, metric)
        index.cp.min_points_per_centroid = 1
        chosen = np.random.default_rng(0).permutation(count)[: _TRAINING * cells]
        index.train(_unit(vectors[finite[chosen]]))
        for start in range(0, count, 65_536):
            rows = finite[start : start + 65_536]
            index.add_with_ids(_unit(vectors[rows]), rows)
        with atomic_path(self._file) as path:
            self._faiss.write_index(index, str(path))
        write_text(self._note, json.dumps(self._about()))

    def most_similar(self, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """As the function `most_similar`, but with rows of -1 if the searched cells have fewer than `top` vectors.

        Raises:
            UserError: the index is damaged, or the queries have another width.
        """
        try:
            index: Any = self._faiss.read_index(str(self._file), self._faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise UserError(f"{self._file} is damaged; remove it, and the next search writes it again") from error
        if queries.shape[1] != index.d:
            raise UserError(f"vectors have {index.d} numbers, the example {queries.shape[1]}; use the same model")
        index.nprobe = PROBES
        similarity, rows = index.search(_unit(queries), min(top, index.ntotal))
        return rows, similarity

    @property
    def _note(self) -> Path:
        return self._file.with_name(f"{self._file.name}.json")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors / vector_lengths(vectors)[:, None], np.float32)


def most_similar(
    vectors: np.ndarray, queries: np.ndarray, top: int, lengths: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `top` most similar rows for each query: row indices (Q, top) and cosine similarities (Q, top).

    A vector that is not finite is not similar to any; rows are -1 where there are fewer others than `top`. The vectors
    are not copied; the memory needed is one number per row and query.

    Args:
        vectors: (N, D) features to search.
        queries: (Q, D) features of the examples.
        top: number of rows per query; at most N are returned.
        lengths: (N,) Euclidean lengths of `vectors`, computed if None.

    Raises:
        UserError: vectors and queries have different widths.
    """
    if vectors.shape[1] != queries.shape[1]:
        raise UserError(f"vectors have {vectors.shape[1]} numbers, the example {queries.shape[1]}; use the same model")
    similarity = (queries / vector_lengths(queries)[:, None]) @ vectors.T
    with np.errstate(invalid="ignore"):
        similarity /= vector_lengths(vectors) if lengths is None else np.maximum(lengths, _SHORTEST)
    similarity[~np.isfinite(similarity)] = -np.inf  # partition would sort NaN above all
    top = min(top, len(vectors))
    rows = np.stack([_largest(row, top) for row in similarity])
    similarity = np.take_along_axis(similarity, rows, 1)
    return np.where(np.isfinite(similarity), rows, -1), similarity


def vector_lengths(vectors: np.ndarray) -> np.ndarray:
    """Euclidean lengths (N,) of vectors (N, D), computed in blocks that fit the CPU cache; at least `_SHORTEST`."""
    lengths = np.empty(len(vectors), vectors.dtype)
    for start in range(0, len(vectors), 2048):
        block = vectors[start : start + 2048]
        np.einsum("nd,nd->n", block, block, out=lengths[start : start + 2048])
    return np.maximum(np.sqrt(lengths), _SHORTEST)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest values, largest first."""
    places = np.argpartition(values, len(values) - count)[len(values) - count :]
    return places[np.argsort(-values[places], kind="stable")]
