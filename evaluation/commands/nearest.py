"""Nearest-neighbour search over vectors: exact, by a matrix product and float64, or through a faiss index on disk."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.writing.files import atomic_path, remove_dead, write_text

from ..probes.neighbours import unit_blocks

PROBES = 32  # cells of the index that are searched for each query
_TRAINING = 64  # training vectors per cell
_LEAST = 1000  # fewest vectors for an index
_CACHED = 2048  # vectors that fit the CPU cache
_GATHERED = 65_536  # vectors copied at a time
_ORDINARY = 2.0**-40, 2.0**60  # lengths whose squares, and products with unit vectors, float32 holds


class Index:
    """A faiss index beside a features file: unit vectors in about 4 sqrt(N) cells, PROBES of which are searched.

    The index is mapped from disk, so a search reads only those cells. It can miss similar vectors in other cells, and
    its cosines are float32: it does not tell vectors apart that differ by less than about 1e-4 of their length. A
    vector that is not finite is not in it.

    Args:
        features: path of the features file, which `build` takes as it is now: read the vectors afterwards.
    """

    def __init__(self, features: Path) -> None:
        self._faiss = require("faiss", "search")
        self._features = features
        self._file = features.with_name(f"{features.name}.faiss")
        self._made_of = _stamp(features)

    @property
    def fresh(self) -> bool:
        """Whether the index belongs to the current features file, and is as it was written."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return bool(note == {"features": _stamp(self._features), "index": _stamp(self._file)})
        except (FileNotFoundError, ValueError):
            return False

    def build(self, vectors: np.ndarray) -> None:
        """Build the index from vectors (N, D).

        Raises:
            UserError: there are too few finite vectors for an index, or it cannot be written.
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
        self._write(index)

    def _write(self, index: Any) -> None:
        try:
            remove_dead(self._file)  # a build that was killed leaves as much as an index
            with atomic_path(self._file) as path:
                self._faiss.write_index(index, str(path))
            write_text(self._note, json.dumps({"features": self._made_of, "index": _stamp(self._file)}))
        except (OSError, RuntimeError) as error:
            told = str(error).rpartition(" failed: ")[2]  # faiss names its code before this
            reason = getattr(error, "strerror", None) or told
            raise UserError(
                f"{self._file} cannot be written ({reason}); give it room, or search without --index"
            ) from error

    def most_similar(self, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """As the function `most_similar`, but with rows of -1 if the searched cells have fewer than `top` vectors.

        Raises:
            UserError: the index is damaged, or the queries have another width.
        """
        index = self._opened
        if queries.shape[1] != index.d:
            raise UserError(f"vectors have {index.d} numbers, the example {queries.shape[1]}; use the same model")
        index.nprobe = PROBES
        similarity, rows = index.search(_unit(queries), min(top, index.ntotal))
        return rows, similarity

    @property
    def count(self) -> int:
        """How many vectors are in the index.

        Raises:
            UserError: the index is damaged.
        """
        return int(self._opened.ntotal)

    @cached_property
    def _opened(self) -> Any:
        try:
            return self._faiss.read_index(str(self._file), self._faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise UserError(f"{self._file} is damaged; remove it, and the next search writes it again") from error

    @property
    def _note(self) -> Path:
        return self._file.with_name(f"{self._file.name}.json")


def _stamp(path: Path) -> list[int]:
    """Size and time of change of a file: a digest would need all of its bytes."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, D) at length 1, float32."""
    units = np.empty(vectors.shape, np.float32)
    for rows, unit, _ in unit_blocks(vectors):
        units[rows] = unit
    return units


def most_similar(
    vectors: np.ndarray, queries: np.ndarray, top: int, lengths: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `top` most similar rows for each query: row indices (Q, top) and cosine similarities (Q, top), float64.

    Products in float32 find the rows that can be among the most similar; these are compared in float64. Rows of equal
    similarity come in their order. A vector that is not finite is not similar to any; rows are -1 where there are
    fewer others than `top`. A vector of zeros has a similarity of 0. The vectors are not copied; the memory needed is
    a few numbers per row, and one for each query and row.

    Args:
        vectors: (N, D) float32 features to search.
        queries: (Q, D) finite features of the examples.
        top: number of rows per query; at most N are returned.
        lengths: (N,) `vector_lengths` of `vectors`, computed if None. A wrong length gives a wrong result.

    Raises:
        UserError: vectors and queries have different widths.
    """
    if vectors.shape[1] != queries.shape[1]:
        raise UserError(f"vectors have {vectors.shape[1]} numbers, the example {queries.shape[1]}; use the same model")
    lengths = vector_lengths(vectors) if lengths is None else lengths
    odd = ~((lengths > _ORDINARY[0]) & (lengths < _ORDINARY[1]))
    units = np.concatenate([unit.copy() for _, unit, _ in unit_blocks(queries)])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        products = units.astype(vectors.dtype) @ vectors.T
        products /= lengths
    products[:, odd] = -np.inf
    always, top = np.flatnonzero(odd), min(top, len(vectors))
    found = [_best(vectors, unit, np.union1d(_candidates(row, top, vectors.shape[1]), always), top)
             for unit, row in zip(units, products, strict=True)]  # fmt: skip
    rows, similarity = (np.stack(part) for part in zip(*found, strict=True))
    return rows, similarity


def _candidates(products: np.ndarray, top: int, width: int) -> np.ndarray:
    """Rows that can be among the `top` most similar, by their cosines in float32.

    Sums of n products x, as in a cosine and a length, err by at most n 2^-24 sum |x|; both together, and some more for
    the rounding of the query, are allowed for both of two cosines that are compared.
    """
    least = np.partition(products, len(products) - top)[len(products) - top]
    return np.flatnonzero(products >= least - 2 * (width + 4) * 2.0**-23)


def _best(vectors: np.ndarray, query: np.ndarray, rows: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` of some rows (ascending) most similar to a unit query (D,) float64, and their similarities."""
    distances = np.empty(len(rows))
    for start in range(0, len(rows), _GATHERED):
        some = rows[start : start + _GATHERED]
        distances[start : start + _GATHERED] = _distances(vectors[some], query)
    places = np.argsort(distances, kind="stable")[:top]  # NaN last
    lost = np.isnan(distances[places])
    return np.where(lost, -1, rows[places]), np.where(lost, -np.inf, 1 - distances[places])


def _distances(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """1 minus the cosines (N,) of vectors (N, D) with a unit query (D,); NaN for vectors that are not finite.

    It is half the squared distance of unit vectors, which is exact also where cosines round to 1. For a vector or
    query of zeros this is 1/2, but the cosine is 0.
    """
    distances = np.empty(len(vectors))
    with np.errstate(invalid="ignore"):
        for rows, unit, lengths in unit_blocks(vectors):
            unit -= query
            distances[rows] = (np.einsum("nd,nd->n", unit, unit) + (lengths == 0)) / 2
    return distances if query.any() else 1 + 0 * distances  # NaN stays


def vector_lengths(vectors: np.ndarray) -> np.ndarray:
    """Euclidean lengths (N,) float64 of vectors (N, D) float32; not finite where a vector is not.

    They are computed in float32, in blocks that fit the CPU cache, but in float64 where float32 cannot hold squares.
    """
    lengths = np.empty(len(vectors))
    for start in range(0, len(vectors), _CACHED):
        block = vectors[start : start + _CACHED]
        lengths[start : start + _CACHED] = np.sqrt(np.einsum("nd,nd->n", block, block))
    odd = np.flatnonzero(~((lengths > _ORDINARY[0]) & (lengths < _ORDINARY[1])))
    for start in range(0, len(odd), _CACHED):
        some = odd[start : start + _CACHED]
        lengths[some] = np.linalg.norm(vectors[some].astype(np.float64), axis=1)
    return lengths
