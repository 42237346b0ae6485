"""Neighbours against exact cosines."""

from threading import local
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.probes import candidates, neighbours, products
from evaluation.probes.candidates import Candidates
from evaluation.probes.neighbours import nearest, unit_centre, unit_offsets


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1.0, 1e-3, 1e-5]),
    st.booleans(),
    st.sampled_from([30, 171, 400]),
    st.booleans(),
)
def test_neighbours_are_those_of_exact_cosines(seed, spread, skip_self, count, bfloat16):
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=8)
    features = (middle + spread * rng.normal(size=(count, 8))).astype(np.float32)
    queries = features if skip_self else (middle + spread * rng.normal(size=(7, 8))).astype(np.float32)
    centre = unit_centre(features)
    support = unit_offsets(features, centre)
    small = {"BLOCK": 128, "MANY": 1, "FEW": 1, "TRIAL": 5, "THIN": 2, "has_bfloat16": lambda: bfloat16}
    with patch.object(products, "TILE", 192), patch.multiple(neighbours, **small):
        blocks = list(nearest(unit_offsets(queries, centre), support, 5, skip_self))
    similarity, rows = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    wide = [part.astype(np.float64) / np.linalg.norm(part.astype(np.float64), axis=1, keepdims=True)
            for part in (queries, features)]  # fmt: skip
    cosine = wide[0] @ wide[1].T
    if skip_self:
        np.fill_diagonal(cosine, -np.inf)
    best = -np.sort(-cosine, axis=1)[:, :5]
    tolerance = 1e-5 * spread**2
    np.testing.assert_allclose(np.take_along_axis(cosine, rows.numpy(), 1), best, atol=tolerance)
    gaps = similarity.numpy() - similarity.numpy()[:, :1]
    np.testing.assert_allclose(gaps, best - best[:, :1], atol=tolerance)


def test_zeros_have_cosine_zero():
    support = np.array([[3, 0], [1, 1], [0, 0], [-1, 2]], np.float32)
    centre = unit_centre(support)
    (block,) = nearest(unit_offsets(np.float32([[2, 0], [0, 0]]), centre), unit_offsets(support, centre), 4)
    similarity, rows = (part.numpy() for part in block)
    assert rows[0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(similarity[0] - similarity[0, 0], [0, 0.5**0.5 - 1, -1, -(0.2**0.5) - 1], atol=1e-6)
    assert np.ptp(similarity[1]) < 1e-6


def spread_out(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=(count, 24)).astype(np.float32)


def in_clusters(rng: np.random.Generator, count: int) -> np.ndarray:
    """Within a cluster, cosines differ by less than bfloat16 can tell."""
    centres = np.random.default_rng(5).normal(size=(4, 24))
    return (centres[rng.integers(0, 4, count)] + 1e-3 * rng.normal(size=(count, 24))).astype(np.float32)


def repeated(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.repeat(spread_out(rng, -(-count // 150)), 150, axis=0)[:count]


@pytest.mark.parametrize(("make", "sure"), [(spread_out, True), (in_clusters, False), (repeated, False)])
def test_candidates_tell_whether_they_include_the_nearest(make, sure):
    rng = np.random.default_rng(0)
    support, queries = make(rng, 3000), make(rng, 40)
    centre = unit_centre(support)
    offsets, asked = unit_offsets(support, centre), torch.from_numpy(unit_offsets(queries, centre))
    asked[:, -1] = -1
    similarity, rows, told = Candidates(offsets, 60).nearest(asked, 6, torch.full((40,), -1), local())
    exact = asked.numpy().astype(np.float64) @ offsets.T.astype(np.float64)
    best = -np.sort(-exact, axis=1)[:, :6]
    assert told.float().mean() > 0.9 if sure else not told.any()
    np.testing.assert_allclose(similarity[told], best[told], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(exact, rows.numpy(), 1)[told], best[told], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 33, 200]), st.floats(1e-4, 1))
def test_products_in_bfloat16_err_by_no_more_than_the_bound(seed, width, spread):
    """All offsets round the same way, which is the worst that can happen."""
    rng = np.random.default_rng(seed)
    up = (1 + 2.0**-8 * rng.uniform(0.8, 1)) * 2.0 ** rng.integers(-3, 3, width)
    offsets = (spread * up * rng.choice([1, 1, 0.5], (400, width))).astype(np.float32)
    offsets = np.column_stack([offsets, np.einsum("nd,nd->n", offsets, offsets) / 2])
    queries = torch.from_numpy(offsets[:20].copy())
    queries[:, -1] = -1
    found = Candidates(offsets, 400)
    rounded, lengths, errors = candidates._rounded(queries, queries.new_full((20, 2), -1))
    exact = queries.double() @ torch.from_numpy(offsets).double().T + found.middle
    off = (rounded.double() @ found.rounded.double().T - exact).abs()
    assert (off <= found._bound(lengths, errors)[:, None]).all()
    told = (rounded @ found.rounded.T).double()
    room = candidates.ROUNDING * told.abs() + found._bound(lengths, errors)[:, None]
    assert ((told - exact).abs() <= room).all()


@pytest.mark.parametrize(("make", "used"), [(spread_out, True), (in_clusters, False)])
def test_a_trial_shows_whether_candidates_are_of_use(make, used, monkeypatch):
    rng = np.random.default_rng(0)
    support, queries = make(rng, 8000), make(rng, neighbours.MANY)
    centre = unit_centre(support)
    asked = []
    monkeypatch.setattr(neighbours, "has_bfloat16", lambda: True)
    monkeypatch.setattr(
        Candidates, "nearest", lambda self, *a, own=Candidates.nearest: asked.append(1) or own(self, *a)
    )
    found = list(nearest(unit_offsets(queries, centre), unit_offsets(support, centre), 5))
    assert sum(len(rows) for _, rows in found) == len(queries)
    assert len(asked) == 1 + used * neighbours.MANY // neighbours.BLOCK
