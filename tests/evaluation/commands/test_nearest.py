"""The most similar vectors, by all products or by an index."""

import os
import subprocess
import tracemalloc

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from evaluation.commands import nearest
from evaluation.commands.features import Features, write_features
from evaluation.commands.nearest import most_similar
from tests.evaluation.commands.conftest import MADE_WITH


def test_most_similar_is_the_sorted_cosine():
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(40, 5)), rng.normal(size=(3, 5))
    rows, similarity = most_similar(vectors, queries, 6)
    whole = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ).T
    assert np.array_equal(rows, np.argsort(-whole, axis=1)[:, :6])
    np.testing.assert_allclose(similarity, -np.sort(-whole, axis=1)[:, :6])
    assert most_similar(vectors, queries, 99)[0].shape == (3, 40)


def _exact_cosines(queries, vectors):
    """Cosines (Q, N) in extended precision; 0 for a vector of zeros."""
    long = [part.astype(np.longdouble) for part in (queries, vectors)]
    units = [part / np.where(part.any(1), np.sqrt((part * part).sum(1)), 1)[:, None] for part in long]
    return units[0] @ units[1].T


@pytest.mark.parametrize("width", [1, 7, 384])
@pytest.mark.parametrize("kind", ["ordinary", "nearly equal", "tied", "huge", "tiny", "of all lengths"])
def test_the_most_similar_are_those_of_an_independent_precise_search(kind, width):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1500, width))
    make = {
        "ordinary": lambda: noise,
        "nearly equal": lambda: 1 + 1e-5 * noise,
        "tied": lambda: rng.integers(-1, 2, (1500, width)),
        "huge": lambda: noise * 10 ** rng.uniform(18, 37, (1500, 1)),
        "tiny": lambda: noise * 10 ** rng.uniform(-44, -9, (1500, 1)),
        "of all lengths": lambda: noise * 10 ** rng.uniform(-40, 37, (1500, 1)),
    }
    vectors = make[kind]().astype(np.float32)
    vectors[700:] = vectors[:800]  # each of these is there twice
    queries = vectors[:30].copy()
    rows, similarity = most_similar(vectors, queries, 9)
    cosines = _exact_cosines(queries, vectors)
    best = -np.sort(-cosines, axis=1)[:, :9]
    np.testing.assert_allclose(np.take_along_axis(cosines, rows, 1).astype(float), best.astype(float), 0, 1e-17)
    np.testing.assert_allclose(similarity, best.astype(float), 0, 1e-13)
    for row, found in enumerate(rows.tolist()):
        same = np.flatnonzero((vectors == queries[row]).all(1))
        if kind not in ("tied", "tiny") and width > 1:
            assert found[: len(same)] == same.tolist()


def test_ties_come_in_the_order_of_rows():
    vectors = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    vectors[[250, 17, 130]] = vectors[40]
    assert most_similar(vectors, vectors[130:131], 1)[0].tolist() == [[17]]
    assert most_similar(vectors, vectors[130:131], 4)[0].tolist() == [[17, 40, 130, 250]]
    assert most_similar(np.zeros((9, 4), np.float32), np.ones((1, 4)), 5)[0].tolist() == [[0, 1, 2, 3, 4]]
    assert most_similar(vectors, np.zeros((1, 40)), 3)[0].tolist() == [[0, 1, 2]]


def test_lengths_are_exact_where_float32_cannot_hold_squares():
    vectors = np.array([[3e30, 4e30], [3e-30, 4e-30], [0, 0], [3, 4], [np.inf, 1], [np.nan, 1]], np.float32)
    np.testing.assert_allclose(nearest.vector_lengths(vectors)[:4], [5e30, 5e-30, 0, 5], rtol=1e-6)
    assert np.isfinite(nearest.vector_lengths(vectors)).tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize("lengths", [None, "stored"])
def test_vectors_that_are_not_finite_are_not_similar(lengths):
    vectors = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    query = vectors[:1].copy()
    vectors[3], vectors[4, 2], vectors[5], vectors[6] = np.nan, np.inf, 0, query
    known = None if lengths is None else nearest.vector_lengths(vectors)
    rows, similarity = most_similar(vectors, query, 3, known)
    assert sorted(rows[0, :2].tolist()) == [0, 6] and np.isfinite(similarity).all()
    rows, similarity = most_similar(vectors, query, 9, known)
    assert sorted(rows[0].tolist()) == [-1, -1, 0, 1, 2, 5, 6, 7, 8] and rows[0, 7:].tolist() == [-1, -1]
    assert similarity[0, rows[0] == 5] == 0


def test_an_index_finds_what_the_exact_search_finds(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 24))
    vectors = (centres[rng.integers(0, 50, 4000)] + 0.3 * rng.normal(size=(4000, 24))).astype(np.float32)
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(4000)], vectors, MADE_WITH))
    index = nearest.Index(path)
    assert not index.fresh
    index.build(vectors)
    rows, similarity = index.most_similar(vectors[:100], 10)
    exact, cosines = most_similar(vectors, vectors[:100], 10)
    shared = [len(set(one) & set(other)) for one, other in zip(rows.tolist(), exact.tolist(), strict=True)]
    assert np.mean(shared) > 9.5 and (rows[:, 0] == exact[:, 0]).all()
    np.testing.assert_allclose(similarity[:, 0], cosines[:, 0], atol=1e-5)
    assert nearest.Index(path).fresh
    lacking = np.where(np.arange(4000)[:, None] == 5, np.nan, vectors).astype(np.float32)
    index.build(lacking)
    assert (index.most_similar(vectors[:3], 10)[0] == rows[:3]).mean() > 0.9
    write_features(path, Features([str(n) for n in range(39)], vectors[:39], MADE_WITH))
    assert not nearest.Index(path).fresh
    with pytest.raises(UserError, match="39 vectors need no index"):
        nearest.Index(path).build(vectors[:39])


@pytest.mark.parametrize("damage", ["cut", "emptied", "another file", "a few bytes", "removed"])
def test_a_damaged_index_is_not_fresh(tmp_path, damage):
    pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32)
    path, file = tmp_path / "f.parquet", tmp_path / "f.parquet.faiss"
    write_features(path, Features([str(n) for n in range(1500)], vectors, MADE_WITH))
    index = nearest.Index(path)
    index.build(vectors)
    assert index.fresh
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 40]) + whole[middle + 40 :]
    contents = {"cut": whole[:middle], "emptied": b"", "another file": b"x" * len(whole), "a few bytes": flipped}
    file.unlink() if damage == "removed" else file.write_bytes(contents[damage])
    assert not nearest.Index(path).fresh
    if damage in ("cut", "emptied", "another file"):
        with pytest.raises(UserError, match=r"f\.parquet\.faiss is damaged; remove it"):
            index.most_similar(vectors[:1], 3)


def test_an_index_of_features_that_were_replaced_while_it_was_built_is_not_fresh(tmp_path):
    pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32)
    path, names = tmp_path / "f.parquet", [str(n) for n in range(1500)]
    write_features(path, Features(names, vectors, MADE_WITH))
    index = nearest.Index(path)
    write_features(path, Features(names, 2 + vectors, MADE_WITH))
    index.build(vectors)
    assert not index.fresh and not nearest.Index(path).fresh
    nearest.Index(path).build(2 + vectors)
    assert nearest.Index(path).fresh


def test_a_build_removes_what_a_killed_build_left(tmp_path):
    pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32)
    path = tmp_path / "f.parquet"
    write_features(path, Features([str(n) for n in range(1500)], vectors, MADE_WITH))
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead, alive = (tmp_path / f".f.parquet.faiss.tmp-{process}" for process in (ended.pid, os.getppid()))
    for left in (dead, alive):
        left.write_bytes(b"half an index")
    nearest.Index(path).build(vectors)
    assert not dead.exists() and alive.exists()


def test_a_search_does_not_copy_the_vectors():
    vectors = np.random.default_rng(0).normal(size=(50_000, 64)).astype(np.float32)
    vectors.flags.writeable = False
    tracemalloc.start()
    try:
        most_similar(vectors, vectors[:2], 8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < vectors.nbytes / 4
