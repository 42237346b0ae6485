"""Several seeds as one result."""

import json
from dataclasses import replace

import numpy as np
import pytest

from biovfm_hf.results.record import Record
from evaluation.commands.probe import main
from evaluation.results.comparisons import compare_models, enough_resamples
from evaluation.results.records import merge_records, write_record
from evaluation.results.seeds import over_seeds


def write_seeds(out, noise, seeds=5, n=400, kind="binary-class", model="m"):
    """Records of one model whose scores differ between seeds by `noise`."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    shared = labels + rng.normal(size=n)
    records = []
    for seed in range(seeds):
        identity = dict(model=model, task="t", method="linear", protocol="fast", seed=seed, settings={})
        luck = np.random.default_rng([seed + 1, ord(model)])
        scores = 1 / (1 + np.exp(-(shared + noise * luck.uniform(0, 2) * luck.normal(size=n))))
        arrays = dict(test_labels=labels[:, None], test_scores=scores[:, None], thresholds=np.array([0.6]))
        named = dict(revision="r", data="d", kind=kind, seconds=1.0)
        record = Record(**identity, **named, metrics={"auc": {"value": 0.5}})
        records.append(write_record(out, record, arrays))
    return records


def test_seeds_are_a_part_of_the_uncertainty(tmp_path):
    alike, apart = (over_seeds(tmp_path / str(noise), write_seeds(tmp_path / str(noise), noise)) for noise in (0, 2.0))
    assert len(alike) == len(apart) == 1 and apart[0].seeds == [0, 1, 2, 3, 4]
    same, spread = alike[0].metrics["auc"], apart[0].metrics["auc"]
    assert same["seed_sd"] == pytest.approx(0, abs=1e-12) and spread["seed_sd"] > 0.005
    # Without seeds' variance the interval is that of the test cases alone.
    assert (same["high"] - same["low"]) / 2 == pytest.approx(1.96 * same["case_se"], rel=1e-3)
    assert spread["low"] < spread["value"] < spread["high"] and spread["seeds"] == 5
    assert set(spread) == {"value", "low", "high", "seed_sd", "case_se", "seeds"}


def test_single_seeds_and_other_settings_stay_apart(tmp_path):
    records = write_seeds(tmp_path, 1.0, seeds=2)
    changed = [records[0], replace(records[1], settings={"epochs": 3})]
    assert over_seeds(tmp_path, changed) == changed


def test_a_metric_that_one_seed_leaves_undefined_keeps_its_reason(tmp_path):
    records = write_seeds(tmp_path, 1.0, seeds=2)
    records[1] = replace(records[1], metrics={}, undefined={"auc": "no case is positive"})
    (joined,) = over_seeds(tmp_path, records)
    assert joined.metrics == {} and joined.undefined == {"auc": "no case is positive"}


def test_command_runs_several_seeds_and_states_their_spread(tmp_path, tiny_model, second_model, class_folder):
    words = ["--model", f"a={tiny_model}", "--model", f"b={second_model}", "--tasks", str(class_folder)]
    words += ["--out", str(tmp_path), "--resamples", "40", "--seed", "0,1,2"]
    main([*words, "--protocol", "biovfm", "--epochs", "3"])
    main([*words, "--method", "fewshot", "--shots", "2", "--draws", "3"])
    records = json.loads((tmp_path / "results.json").read_text())
    assert sorted({record["seed"] for record in records}) == [0, 1, 2] and len(records) == 12
    table = (tmp_path / "table.md").read_text()
    assert "linear, protocol biovfm, seed 0, 1, 2 (mean)" in table and "over 3 seeds, SD" in table
    assert "standard error from test cases" in table
    means = json.loads((tmp_path / "seeds.json").read_text())
    assert [(mean["model"], mean["method"], mean["joined"]) for mean in means] == [
        (model, method, [0, 1, 2]) for method in ("fewshot-2", "linear") for model in "ab"
    ]
    assert all(mean["metrics"]["auc"]["seeds"] == 3 and mean["scores"] for mean in means)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert any(',"0, 1, 2 (mean)",' in line for line in lines)
    rows = json.loads((tmp_path / "comparisons.json").read_text())
    one, several = ([row for row in rows if isinstance(row["seed"], kind)] for kind in (int, list))
    assert {row["seed"] for row in one} == {0, 1, 2} and len(one) == 3 * len(several)
    assert all("p_delong" in row for row in one if row["metric"] == "auc" and row["method"] == "linear")
    for row in several:
        parts = [r for r in one if all(r[name] == row[name] for name in ("method", "metric"))]
        assert row["seed"] == [0, 1, 2] and len(parts) == 3 and row["p"] <= row["p_holm"]
        assert row["difference"] == pytest.approx(np.mean([part["difference"] for part in parts]))
        assert row["low"] <= row["difference"] <= row["high"]
        if row["method"] == "linear":
            assert row["seed_sd"] == pytest.approx(np.std([part["difference"] for part in parts], ddof=1), abs=1e-6)
    # The table's verdict is that over all seeds.
    told = [line for line in table.splitlines() if line.startswith("| stripes | ") and " | a | b | " in line]
    assert told and all(" | 0, 1, 2 (mean) | " in line for line in told)


def test_a_difference_that_seeds_make_is_not_taken_for_real(tmp_path):
    """Two models that differ only by their seeds, with so many cases that each seed alone finds a difference."""
    records = [r for name in "ab" for r in write_seeds(tmp_path, 1.0, seeds=4, n=4000, model=name)]
    rows = [row for row in compare_models(tmp_path, records, 200) if row["metric"] == "auc"]
    one, several = ([row for row in rows if isinstance(row["seed"], kind)] for kind in (int, list))
    assert min(row["p"] for row in one) < 0.02 and len(several) == 1
    assert several[0]["p"] > 0.05 and several[0]["seed_sd"] > several[0]["case_se"] > 0


def write_tasks(out, tasks, n=60):
    """Records of a model that ranks well and of one that guesses, on these tasks."""
    labels, records = np.arange(n) % 2, []
    for model, gain in (("good", 4.0), ("guessing", 0.0)):
        for task in range(tasks):
            scores = gain * labels + np.random.default_rng([task, ord(model[1])]).normal(size=n)
            identity = dict(model=model, task=f"t{task}", method="linear", protocol="fast", seed=0, settings={})
            arrays = dict(test_labels=labels[:, None], test_scores=scores[:, None], thresholds=np.array([0.5]))
            record = Record(**identity, revision="r", data=str(task), kind="binary-class")
            records.append(write_record(out, record, arrays))
    return records


def test_differences_on_many_tasks_can_be_real(tmp_path):
    """At 100 resamples no p is below 2 / 101; Holm's correction over five tasks would leave 0.099."""
    rows = compare_models(tmp_path, write_tasks(tmp_path, 5), 100)
    assert all(row["p_holm"] < 0.05 for row in rows if row["metric"] == "auc")


@pytest.mark.parametrize(("tasks", "resamples", "taken"), [(12, 1000, 1000), (13, 1000, 2000), (26, 1000, 3000)])
def test_resamples_grow_with_the_number_of_tasks(tasks, resamples, taken):
    assert enough_resamples(tasks, resamples) == taken and tasks * 2 / (taken + 1) < 0.025


def test_segmentation_seeds_are_joined(tmp_path, tiny_model, mask_folder):
    words = ["--model", str(tiny_model), "--tasks", str(mask_folder), "--out", str(tmp_path), "--resamples", "40"]
    main([*words, "--method", "segment", "--decoder", "unet", "--epochs", "2", "--seed", "0,1"])
    joined = over_seeds(tmp_path, merge_records(tmp_path), 40)
    assert len(joined) == 1 and joined[0].metrics["dice"]["seeds"] == 2


def test_senseless_seeds_are_refused(tmp_path, tiny_model, class_folder):
    for seeds in ("x", "1,-2"):
        with pytest.raises(SystemExit, match="2"):
            main(["--model", str(tiny_model), "--tasks", str(class_folder), "--out", str(tmp_path), "--seed", seeds])
