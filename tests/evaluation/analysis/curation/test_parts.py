"""K-means part by part: its potential beside flat k-means, shared by processes, and continued after a kill."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from evaluation.analysis.curation import hierarchy, parts
from evaluation.analysis.curation.command import CurateOptions, curate
from evaluation.analysis.curation.hierarchy import build_tree
from evaluation.analysis.curation.kmeans import assign, lloyd, seed_centroids
from evaluation.analysis.curation.parts import cluster_by_parts
from evaluation.analysis.curation.sharing import ALONE, share
from evaluation.commands.features import Features, write_features
from tests.evaluation.commands.conftest import MADE_WITH
from tests.preloaded import python

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 6)) * 8
    return (centres[rng.integers(0, 12, 3000)] + rng.normal(size=(3000, 6))).astype(np.float32)


@pytest.mark.parametrize("limit", [parts.PART_BYTES, 0])
def test_clusters_of_parts_are_about_as_tight_as_those_of_the_whole(points, monkeypatch, limit):
    monkeypatch.setattr(parts, "PART_BYTES", limit)
    monkeypatch.setattr(parts, "PASS_ROWS", 700)
    centroids, assignment = cluster_by_parts(points, 100, 0, ALONE)
    gaps = cdist(points, centroids) ** 2
    np.testing.assert_allclose(assignment.distances, gaps[np.arange(3000), assignment.labels], rtol=1e-3, atol=1e-3)
    assert len(np.unique(assignment.labels)) == 100
    flat = assign(points, lloyd(points, seed_centroids(points, 100, 0), 50)).distances.sum()
    assert assignment.distances.sum() < 1.15 * flat
    assert (gaps.argmin(axis=1) == assignment.labels).mean() > 0.8


def test_a_level_of_many_clusters_is_made_by_parts(points, monkeypatch):
    monkeypatch.setattr(hierarchy, "FLAT_CLUSTERS", 50)
    tree = build_tree(points, [100, 12], [15, 4], resamplings=2)
    np.testing.assert_array_equal(tree.assignments[0], cluster_by_parts(points, 100, 0, ALONE)[1].labels)
    assert [len(sizes) for sizes in tree.sizes()] == [100, 12] and tree.sizes()[1].sum() == 3000


def test_work_that_was_stopped_is_not_done_again(points, tmp_path, monkeypatch):
    made = parts._cluster_part
    whole = cluster_by_parts(points, 100, 0, ALONE)[1]

    def stopping(*given):
        counts.append(1)
        if len(counts) == 4:
            raise KeyboardInterrupt
        return made(*given)

    counts: list[int] = []
    monkeypatch.setattr(parts, "_cluster_part", stopping)
    with pytest.raises(KeyboardInterrupt), share(tmp_path, {"seed": 0}) as sharing:
        cluster_by_parts(points, 100, 0, sharing)
    with share(tmp_path, {"seed": 0}) as sharing:
        labels = np.array(cluster_by_parts(points, 100, 0, sharing)[1].labels)
    assert len(counts) == 4 + 7  # of ten parts three were done
    np.testing.assert_array_equal(labels, whole.labels)
    assert not list(tmp_path.iterdir())


def test_processes_share_the_parts_and_choose_as_one_does(tmp_path):
    features = np.random.default_rng(0).normal(size=(4000, 4)).astype(np.float32)
    write_features(tmp_path / "pool.parquet", Features([f"{row}" for row in range(4000)], features, MADE_WITH))
    words = ["curate", str(tmp_path / "pool.parquet"), "--keep", "500", "--clusters", "1200,20", "--resamplings", "1"]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = [python(), *torchrun, "-m", "biovfm_hf.cli", *words, "--out", str(tmp_path / "two")]
    environment = {**os.environ, "PYTHON_EXEC": python()}
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("500 of 4000") == 1
    options = CurateOptions(tmp_path / "pool.parquet", 500, tmp_path / "one", clusters=(1200, 20), resamplings=1)
    curate(options)
    chosen = [(tmp_path / name / "selection.txt").read_text() for name in ("one", "two")]
    assert chosen[0] == chosen[1] and len(chosen[0].split()) == 500
