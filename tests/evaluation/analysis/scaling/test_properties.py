"""Task properties from MedMNIST-style files: scikit-learn's index, gzip's ratio, streamed."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import davies_bouldin_score

from biovfm_hf.errors import UserError
from evaluation.analysis.scaling import properties
from evaluation.analysis.scaling.tables import read_properties
from evaluation.analysis.scaling_command import main


def blocks(features, labels, size):
    return [(features[i : i + size], labels[i : i + size]) for i in range(0, len(features), size)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 17))
def test_the_streamed_index_equals_scikit_learn(seed, classes, size):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), rng.integers(0, classes, 30)][:, None]
    features = rng.normal(size=(len(labels), 4)) + labels
    parts = blocks(features, labels, size)
    found = properties.davies_bouldin(parts, lambda: parts)
    assert found == pytest.approx(davies_bouldin_score(features, labels[:, 0]))


def test_the_index_of_labels_is_their_mean():
    rng = np.random.default_rng(0)
    labels = np.c_[np.tile([0, 1], 20), rng.integers(0, 2, 40), np.zeros(40, int)]
    features = rng.normal(size=(40, 3))
    parts = blocks(features, labels, 7)
    expected = np.mean([davies_bouldin_score(features, labels[:, k]) for k in (0, 1)])
    assert properties.davies_bouldin(parts, lambda: parts, multilabel=True) == pytest.approx(expected)


@pytest.fixture
def medmnist_file(tmp_path):
    rng = np.random.default_rng(0)

    def write(name="toymnist.npz", side=28, channels=(), classes=3, n=(40, 10, 20), columns=1, **change):
        arrays = {}
        for split, count in zip(("train", "val", "test"), n, strict=True):
            arrays[f"{split}_images"] = rng.integers(0, 256, (count, side, side, *channels), dtype=np.uint8)
            arrays[f"{split}_labels"] = rng.integers(0, classes, (count, columns)).astype(np.uint8)
        np.savez_compressed(tmp_path / name, **(arrays | change))
        return tmp_path / name, arrays

    return write


def test_measures_equal_plain_computation(medmnist_file):
    path, arrays = medmnist_file()
    images = np.concatenate([arrays[f"{s}_images"] for s in ("train", "val", "test")])
    labels = np.concatenate([arrays[f"{s}_labels"] for s in ("train", "val", "test")])
    found = properties.measure(path, sampled=0)
    assert (found.task, found.num_samples, found.num_classes) == ("toymnist", 70, 3)
    assert found.dbi == pytest.approx(
        davies_bouldin_score(images.reshape(70, -1).astype(float), labels[:, 0]), rel=1e-5
    )
    assert found.gzip == pytest.approx(np.median([len(gzip.compress(i.tobytes(), 9, mtime=0)) / 784 for i in images]))
    assert 7.5 < found.entropy < 8


def test_colour_and_large_images_are_averaged_down_and_names_lose_their_size(medmnist_file):
    path, arrays = medmnist_file("toymnist_64.npz", side=64, channels=(3,))
    small = properties.pooled(arrays["train_images"])
    assert small.shape == (40, 32 * 32 * 3)
    expected = arrays["train_images"][0].reshape(32, 2, 32, 2, 3).mean((1, 3)).reshape(-1)
    np.testing.assert_allclose(small[0], expected, rtol=1e-6)
    assert properties.measure(path).task == "toymnist"


def test_sampling_takes_evenly_spaced_images(medmnist_file, monkeypatch):
    path, arrays = medmnist_file()
    images = np.concatenate([arrays[f"{s}_images"] for s in ("train", "val", "test")])
    taken = []
    monkeypatch.setattr(properties, "entropy", lambda image: taken.append(image) or 1.0)
    monkeypatch.setattr(properties, "BLOCK", 9)
    properties.measure(path, sampled=10)
    np.testing.assert_array_equal(np.stack(taken), images[::7])


def test_redundant_images_have_lower_gzip_and_entropy():
    flat, noise = np.full((28, 28), 7, np.uint8), np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    assert properties.gzip_ratio(flat) < 0.1 < properties.gzip_ratio(noise)
    assert properties.entropy(flat) == 0
    halves = np.repeat(np.array([0, 255], np.uint8), 50)
    assert properties.entropy(halves) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(train_images=np.zeros((40, 28, 28))), "expected uint8"),
        (dict(train_images=np.zeros((40, 28, 28, 28), np.uint8)), "sets of volumes are not measured"),
        (dict(train_labels=np.zeros((39, 1), np.uint8)), "does not fit 40 images"),
        (dict(train_labels=np.zeros((40, 1))), "does not fit"),
        (dict(n=(4, 0, 0), classes=1), "fewer than two classes"),
    ],
)
def test_unfit_files_are_refused(medmnist_file, change, words):
    path, _ = medmnist_file(**change)
    with pytest.raises(UserError, match=words):
        properties.measure(path)


def test_a_task_in_several_sizes_is_measured_once(medmnist_file, tmp_path, capsys):
    for name, side in (("breast_64.npz", 64), ("breast.npz", 28), ("blood_128.npz", 128), ("my_set_2.npz", 28)):
        medmnist_file(name, side=side, n=(8, 4, 4))
    assert main(["properties", "--data", str(tmp_path), "--out", str(tmp_path / "tasks.csv")]) == 0
    assert list(read_properties(tmp_path / "tasks.csv")["dbi"]) == ["blood", "breast", "my_set_2"]
    said = capsys.readouterr().err
    assert "note: breast_64.npz is left out" in said and said.count("note:") == 1
    assert main(["properties", "--data", str(tmp_path / "breast_64.npz"), "--out", str(tmp_path / "one.csv")]) == 0
    assert list(read_properties(tmp_path / "one.csv")["dbi"]) == ["breast"]


def test_scaling_reads_the_file_that_the_command_writes(medmnist_file, tmp_path, capsys):
    medmnist_file()
    medmnist_file("other.npz", classes=2)
    assert main(["properties", "--data", str(tmp_path), "--out", str(tmp_path / "tasks.csv")]) == 0
    found = read_properties(tmp_path / "tasks.csv")
    assert list(found) == ["num_samples", "num_classes", "dbi", "gzip", "entropy"]
    assert found["num_classes"] == {"other": 2, "toymnist": 3}
    with pytest.raises(UserError, match=r"holds no \.npz"):
        main(["properties", "--data", str(tmp_path / "nothing"), "--out", "x.csv"]) if (
            tmp_path / "nothing"
        ).mkdir() is None else None
