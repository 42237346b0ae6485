"""Balanced samples and retrieval on known clusters, and `biovfm curate` from end to end."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from evaluation.analysis.curation import kmeans, retrieval
from evaluation.analysis.curation.command import CurateOptions, curate, default_clusters, main
from evaluation.analysis.curation.hierarchy import build_tree, sample
from evaluation.analysis.curation.retrieval import retrieve
from evaluation.analysis.curation.shares import allot
from evaluation.commands.features import Features, write_features
from tests.evaluation.commands.conftest import MADE_WITH

SIZES = {"xray": 300, "mri": 60, "endoscopy": 20}


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    modality = np.repeat(list(SIZES), list(SIZES.values()))
    centres = rng.normal(size=(3, 8)) * 10
    return modality, (centres[np.repeat(range(3), list(SIZES.values()))] + rng.normal(size=(380, 8))).astype(
        np.float32
    )


@pytest.fixture
def files(tmp_path, pool):
    modality, features = pool
    names = [f"{kind}/{number}.png" for number, kind in enumerate(modality)]
    write_features(tmp_path / "pool.parquet", Features(names, features, MADE_WITH))
    picture = Image.new("L", (4, 4))
    rows = {"image": [picture] * 380, "path": names, "modality": modality.tolist()}
    table = datasets.Dataset.from_dict(
        rows,
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "path": datasets.Value("string"),
                "modality": datasets.ClassLabel(names=list(SIZES)),
            }
        ),
    )
    table.to_parquet(tmp_path / "data" / "train.parquet")
    return tmp_path


def test_a_balanced_sample_thins_out_frequent_kinds(pool):
    modality, features = pool
    tree = build_tree(features, [30, 3], [6, 3], resamplings=3)
    rows = sample(tree, 60)
    counts = [(modality[rows] == name).sum() for name in SIZES]
    assert sum(counts) == len(np.unique(rows)) == 60
    assert max(counts) <= 25 and min(counts) >= 15
    np.testing.assert_array_equal(sample(tree, 380), np.arange(380))
    assert len(sample(tree, 700, copies=2)) == 700
    with pytest.raises(UserError, match="380 or fewer"):
        sample(tree, 381)


def test_shares_are_exact_and_within_the_sizes():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(0, 40, 7)
        target = int(rng.integers(0, sizes.sum() + 1))
        shares = allot(sizes, target, rng)
        assert shares.sum() == target and (shares <= sizes).all()


def test_blocks_and_tiles_change_nothing(pool, monkeypatch):
    _, features = pool
    whole = kmeans.assign(features, features[:50])
    centroids = kmeans.lloyd(features, features[:50], 1)
    expected = [features[whole.labels == cluster].mean(0, np.float64) for cluster in range(50)]
    np.testing.assert_allclose(centroids, expected, rtol=1e-6)
    monkeypatch.setattr(kmeans, "BLOCK_ROWS", 37)
    monkeypatch.setattr(kmeans, "TILE_CENTROIDS", 7)
    np.testing.assert_array_equal(kmeans.assign(features, features[:50]).labels, whole.labels)
    np.testing.assert_allclose(kmeans.lloyd(features, features[:50], 1), centroids, rtol=1e-6)


def test_retrieval_takes_the_nearest_of_each_by_turns(pool):
    modality, features = pool
    rows = retrieve(features, features[[300, 361]], 2, 5)
    assert rows.tolist() == [300, 361]
    rows = retrieve(features, features[[300, 361]], 30, 10)
    assert set(modality[rows]) <= {"mri", "endoscopy"} and len(rows) <= 20
    with pytest.raises(UserError, match="one model"):
        retrieve(features, features[:, :4], 2, 5)


def test_retrieval_by_pieces_is_that_of_all_cosines(monkeypatch):
    rng = np.random.default_rng(1)
    features = rng.integers(-2, 3, (400, 5)).astype(np.float32)  # with many rows of one direction
    queries = rng.normal(size=(23, 5)).astype(np.float32)
    monkeypatch.setattr(kmeans, "BLOCK_ROWS", 37)
    monkeypatch.setattr(retrieval, "QUERIES", 9)
    monkeypatch.setattr(retrieval, "TILE_QUERIES", 4)
    every = retrieval.unit(queries) @ retrieval.unit(features).T
    for count in (1, 8, 50, 500):
        rows, cosines = retrieval.neighbours(features, queries, count)
        best = np.sort(every, axis=1)[:, ::-1][:, :count]
        np.testing.assert_allclose(cosines, best, atol=1e-6)
        np.testing.assert_allclose(np.take_along_axis(every, rows, 1), best, atol=1e-6)
        assert all(len(set(found)) == min(count, 400) for found in rows.tolist())


def test_default_clusters_fall_by_a_twentieth():
    assert default_clusters(21_000_000) == [280_000, 14_000, 700, 35]
    assert default_clusters(10) == [2]


def test_curate_writes_a_selection_and_reports_what_was_thinned(files, capsys):
    words = [str(files / "pool.parquet"), "--keep", "60", "--out", str(files / "o"), "--clusters", "30,3"]
    assert main([*words, "--dataset", str(files / "data"), "--resamplings", "2"]) == 0
    chosen = (files / "o" / "selection.txt").read_text().splitlines()
    report = json.loads((files / "o" / "curation.json").read_text())
    assert len(set(chosen)) == report["kept"] == 60
    modality = report["columns"]["modality"]
    assert {value: pool for value, (pool, _) in modality["counts"].items()} == SIZES
    assert modality["counts"]["xray"][1] == sum(name.startswith("xray") for name in chosen)
    assert modality["entropy_kept"] > modality["entropy_pool"] + 0.2
    assert "xray: " in capsys.readouterr().out
    assert {path.name for path in (files / "o").iterdir()} == {"selection.txt", "curation.json"}
    again = curate(CurateOptions(files / "pool.parquet", 60, files / "p", clusters=(30, 3), resamplings=2))
    assert again["kept"] == 60
    assert (files / "p" / "selection.txt").read_text().splitlines() == chosen


def test_curate_finds_images_similar_to_ones_own_and_refuses_features_of_another_model(files, pool):
    write_features(files / "mine.parquet", Features(["a", "b"], pool[1][360:362], MADE_WITH))
    options = {"features": files / "pool.parquet", "out": files / "o", "like": files / "mine.parquet"}
    assert curate(CurateOptions(keep=8, **options))["kept"] == 8
    assert all(name.startswith("endoscopy") for name in (files / "o" / "selection.txt").read_text().splitlines())
    with pytest.raises(UserError, match="381 of 380"):
        curate(CurateOptions(keep=381, **options))
    with pytest.raises(UserError, match="falling"):
        CurateOptions(keep=2, clusters=(3, 30), **options)
    (files / "bad.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match="not a features file"):
        curate(CurateOptions(files / "bad.parquet", 2, files / "o"))


def test_curate_reports_fewer_images_than_asked_for(files, pool, capsys):
    write_features(files / "mine.parquet", Features(["a", "b"], pool[1][360:362], MADE_WITH))
    words = [str(files / "pool.parquet"), "--keep", "60", "--out", str(files / "o"), "--neighbours", "9"]
    assert main([*words, "--like", str(files / "mine.parquet")]) == 0
    report = json.loads((files / "o" / "curation.json").read_text())
    assert report["asked"] == 60 and 9 <= report["kept"] <= 18
    assert "60 were asked for, but each image of --like gives at most 9" in capsys.readouterr().out


def test_values_that_are_not_finite_and_ids_that_occur_twice_are_refused(files, pool):
    broken, names = pool[1].copy(), [f"{number}.png" for number in range(380)]
    broken[200, 3] = np.nan
    write_features(files / "nan.parquet", Features(names, broken, MADE_WITH))
    for chosen, like in (("nan", None), ("nan", "pool"), ("pool", "nan")):
        own = files / f"{like}.parquet" if like else None
        with pytest.raises(UserError, match=r"nan\.parquet, row 200 \(200\.png\): a feature is not finite"):
            curate(CurateOptions(files / f"{chosen}.parquet", 8, files / "o", like=own))
    write_features(files / "twice.parquet", Features([*names[:-2], "7.png", "7.png"], pool[1], MADE_WITH))
    with pytest.raises(UserError, match=r"twice\.parquet: 3 images have the id 7\.png"):
        curate(CurateOptions(files / "twice.parquet", 8, files / "o"))
