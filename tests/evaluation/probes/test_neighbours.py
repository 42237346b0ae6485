"""Neighbours against exact cosines."""

from unittest.mock import patch

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.probes import neighbours
from evaluation.probes.neighbours import nearest, unit_centre, unit_offsets


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1.0, 1e-3, 1e-5]), st.booleans(), st.sampled_from([30, 171, 400]))
def test_neighbours_are_those_of_exact_cosines(seed, spread, skip_self, count):
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=8)
    features = (middle + spread * rng.normal(size=(count, 8))).astype(np.float32)
    queries = features if skip_self else (middle + spread * rng.normal(size=(7, 8))).astype(np.float32)
    centre = unit_centre(features)
    support = unit_offsets(features, centre)
    with patch.object(neighbours, "TILE", 192):
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
