"""K-means, the cut and balanced samples against the reference implementation (tests/reference/curation_*).

What it draws at random comes from numpy's global state; compared is what does not depend on that.
"""

import json

import numpy as np
import pytest

from evaluation.analysis.curation.hierarchy import Tree, sample
from evaluation.analysis.curation.kmeans import assign, lloyd
from evaluation.analysis.curation.shares import cut


@pytest.fixture
def cases(reference_dir):
    paths = sorted(reference_dir.glob("curation_*.json"))
    assert paths
    return [(json.loads(path.read_text()), dict(np.load(path.with_suffix(".npz")))) for path in paths]


def test_reference_kmeans(cases):
    for numbers, arrays in cases:
        points = arrays["X"].astype(np.float64)
        centroids = lloyd(points, points[arrays["kpp_indices"]], 50)
        found = assign(points, centroids)
        assert found.distances.sum() == pytest.approx(numbers["kmeans32_potential"], rel=1e-4)
        np.testing.assert_allclose(centroids, arrays["km_centroids"], atol=1e-6)
        np.testing.assert_array_equal(found.labels, arrays["km_assignment"])
        for cluster, first in enumerate(arrays["km_sorted_first3"]):
            own = np.flatnonzero(found.labels == cluster)
            np.testing.assert_array_equal(own[np.argsort(found.distances[own], kind="stable")][:3], first)


def test_reference_levels(cases):
    for _, arrays in cases:
        found = assign(arrays["X"], arrays["level1_centroids"])
        assert (found.labels == arrays["level1_assignment"]).mean() > 0.999
        above = assign(arrays["level1_centroids"], arrays["level2_centroids"])
        assert (above.labels == arrays["level2_assignment"]).mean() > 0.98


def test_reference_cut(cases):
    for numbers, _ in cases:
        for case in numbers["cut_cases"]:
            assert cut(np.array(case["sizes"]), case["target"]) == case["cut"]


def test_reference_samples(cases):
    for numbers, arrays in cases:
        labels, above = arrays["level1_assignment"], arrays["level2_assignment"]
        gaps = ((arrays["X"] - arrays["level1_centroids"][labels]) ** 2).sum(axis=1)
        tree = Tree([labels, above], gaps.astype(np.float64))
        np.testing.assert_array_equal(tree.sizes()[-1], numbers["flat_sizes_top"])
        for name, expected in numbers["samples"].items():
            target, copies = (int(part) for part in name.split("_m"))
            rows = sample(tree, target, closest=True, copies=copies)
            assert len(rows) == expected["n"]
            counts = np.bincount(above[labels[rows]], minlength=len(expected["per_top_cluster"]))
            top = expected["top_cut"]
            assert cut(copies * np.array(numbers["flat_sizes_top"]), target) == top
            gaps_to = np.abs(counts - expected["per_top_cluster"])
            assert gaps_to.max() <= 1
            if copies == 1:
                assert len(np.unique(rows)) == expected["distinct"]
            pool = np.bincount(arrays["label"][rows])
            shares = pool[pool > 0] / pool.sum()
            assert -(shares * np.log(shares)).sum() == pytest.approx(expected["label_entropy"], abs=0.03)
