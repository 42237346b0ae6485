"""`biovfm probe --corrupt`: errors on corrupted images in records, tables and pictures."""

import json

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from evaluation.commands.probe import ProbeOptions, probe
from evaluation.probes import frozen
from evaluation.statistics.kinds import MULTICLASS
from evaluation.tasks.corruptions import benchmark as tables

NAMES = ("pixelate", "gaussian_noise")


@pytest.fixture
def few(monkeypatch):
    """MedMNIST-C with two corruptions for each set."""
    whole = tables.benchmarks()
    part = {
        name: tables.Benchmark(name, each.grey, {k: each.strengths[k] for k in NAMES}, each.clean, each.alexnet)
        for name, each in whole.items()
        if set(NAMES) <= set(each.strengths)
    }
    monkeypatch.setattr(frozen, "benchmarks", lambda: part)
    monkeypatch.setattr(frozen, "PASS_BYTES", 4096)  # several groups


def options(model, tasks, out, **more):
    settings = dict(method=["knn", "linear"], resamples=50, no_figures=True, corrupt=True)
    return ProbeOptions(model=[f"tiny={model}"], tasks=[str(tasks)], out=out, **{**settings, **more})


def test_records_tables_and_pictures(few, tiny_model, class_folder, tmp_path):
    records = probe(options(tiny_model, class_folder, tmp_path, corruptions="dermamnist", no_figures=False))
    assert [record.method for record in records] == ["knn", "linear"]
    for record in records:
        part = record.further["robustness"]
        assert list(part["corruptions"]) == list(NAMES) and not part["own"] and part["benchmark"] == "dermamnist"
        assert record.setting("corrupt") is True and record.setting("corruptions") == "dermamnist"
        clean = 1 - record.metrics["balanced_accuracy"]["value"]
        assert part["clean_error"]["value"] == pytest.approx(clean)
        for row in part["corruptions"].values():
            assert len(row["errors"]) == len(row["aucs"]) == 5
            assert row["error"]["low"] <= row["error"]["value"] <= row["error"]["high"]
        with np.load(tmp_path / record.scores) as arrays:
            assert arrays["corrupted_scores"].shape == (10, record.n_test, arrays["test_scores"].shape[1])
        assert any("resized to 224" in note for note in part["notes"])
    table = (tmp_path / "table.md").read_text()
    assert "## Corrupted images" in table and "| gaussian_noise |" in table
    assert "error_pixelate_5," in (tmp_path / "table.csv").read_text()
    assert "worst" in next((tmp_path / "figures").glob("corrupted_*_linear_*.txt")).read_text()


def test_own_set_is_measured_against_alexnet(few, tiny_model, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 32), ("val", 16), ("test", 16)):
        labels = np.arange(count) % 8
        arrays[f"{split}_labels"] = labels[:, None]
        arrays[f"{split}_images"] = (rng.integers(0, 30, (count, 28, 28)) + 28 * labels[:, None, None]).astype(
            np.uint8
        )
    data = tmp_path / "data"
    data.mkdir()
    np.savez(data / "pneumoniamnist.npz", **{k: v % 2 if "labels" in k else v for k, v in arrays.items()})
    (record,) = probe(options(tiny_model, "pneumoniamnist", tmp_path / "out", data=data, method=["knn"]))
    part = record.further["robustness"]
    alexnet = tables.benchmarks()["pneumoniamnist"]
    assert part["own"] and set(part) >= {"be", "rbe"}
    expected = np.mean([np.mean(row["errors"]) / alexnet.alexnet[name] for name, row in part["corruptions"].items()])
    assert part["be"]["value"] == pytest.approx(expected)
    assert record.kind != MULTICLASS


def test_what_is_refused(tiny_model, class_folder, tmp_path):
    with pytest.raises(UserError, match="--corruptions"):
        probe(options(tiny_model, class_folder, tmp_path))
    with pytest.raises(UserError, match="corrupt: has no effect on lora"):
        options(tiny_model, class_folder, tmp_path, method=["lora"])
    with pytest.raises(UserError, match="without corrupt"):
        options(tiny_model, class_folder, tmp_path, corrupt=False, corruptions="chestmnist")


def test_groups_of_corruptions_give_the_same_scores(few, tiny_model, class_folder, tmp_path, monkeypatch):
    settings = dict(corruptions="dermamnist", method=["linear"])
    probe(options(tiny_model, class_folder, tmp_path / "a", **settings))
    monkeypatch.setattr(frozen, "PASS_BYTES", 1 << 30)
    probe(options(tiny_model, class_folder, tmp_path / "b", **settings, cache=tmp_path / "a" / "cache"))
    first, second = (json.loads((tmp_path / each / "results.json").read_text())[0]["robustness"] for each in "ab")
    assert first == second
