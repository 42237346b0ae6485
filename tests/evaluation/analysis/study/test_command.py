"""The study runner: what is reported first, its dry run, and its points and slopes from the results."""

import csv
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.results.record import Record
from evaluation.analysis.scaling import figures
from evaluation.analysis.scaling_command import main
from evaluation.analysis.study import command, pretraining
from evaluation.analysis.study.plan import read_study_plan
from evaluation.analysis.study.points import points
from evaluation.commands import probe as probe_command
from evaluation.probes.knn import NearestNeighbours
from evaluation.probes.probe import ProbeRun
from tests.evaluation.analysis.study.conftest import STUDY, width_of

RUN = ProbeRun(NearestNeighbours())
MADE = {"method": "knn", "protocol": "fast", "seed": 0, "settings": RUN.settings, "revision": "r", "data": "d"}


@pytest.fixture
def fake_probe(monkeypatch):
    """Replaces the probe and its data: writes an AUC per model and task."""
    calls = []

    def run(options):
        calls.append(options)
        out, models = options.out, [model.split("=")[0] for model in options.model]
        records = []
        for number, model in enumerate(models):
            for task in ("pneumoniamnist", "busi"):
                value = 0.8 + 0.02 * number + 0.01 * (task == "busi")
                auc = {"value": value, "low": value - 0.05, "high": value + 0.05}
                records.append(Record(model=model, task=task, metrics={"auc": auc}, **MADE))
        records.append(replace(records[0], task="undefined", metrics={"auc": {"value": None}}))
        records.append(replace(records[0], task="of an earlier study"))
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(json.dumps([record.to_json() for record in records]))
        return records

    monkeypatch.setattr(probe_command, "probe", run)
    opened = [SimpleNamespace(name=name) for name in ("pneumoniamnist", "busi", "undefined")]
    monkeypatch.setattr(probe_command, "open_tasks", lambda options: opened)
    monkeypatch.setattr(probe_command, "make_runs", lambda options: [RUN])
    monkeypatch.setattr(figures, "write_figures", lambda *_: [])
    return calls


def test_families_come_in_the_order_of_the_study_file(plan_file, tmp_path, fake_training, fake_probe):
    text = STUDY.replace("  DINO:", "  Z-DINO:")
    assert main(["study", str(plan_file(text)), "--out", str(tmp_path / "out")]) == 0
    results = tmp_path / "out" / "results" / "results.json"
    records = [Record.read(row, "results.json") for row in json.loads(results.read_text())]
    plan = read_study_plan(tmp_path / "study.yaml")
    rows = points(plan.runs, sorted(records, key=lambda record: record.model), tmp_path / "out")
    assert list(dict.fromkeys(row["family"] for row in rows)) == ["Z-DINO", "MAE"]


def test_a_task_called_mean_is_refused_before_anything_is_trained(plan_file, tmp_path, fake_training, class_folder):
    shutil.copytree(class_folder, tmp_path / "Mean")
    text = STUDY.replace("[pneumoniamnist, busi]", "Mean")
    with pytest.raises(UserError, match="a task of the study is called mean"):
        main(["study", str(plan_file(text)), "--out", str(tmp_path / "out")])
    assert not fake_training


def test_a_study_runs_once_and_leaves_points_and_slopes(plan_file, tmp_path, fake_training, fake_probe, capsys):
    words = ["study", str(plan_file()), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert len(fake_training) == 4
    rows = list(csv.DictReader((tmp_path / "out" / "points.csv").open()))
    assert len(rows) == 8
    assert {row["family"] for row in rows} == {"DINO", "MAE"}
    assert float(rows[0]["auc"]) == pytest.approx(80)
    assert float(rows[0]["images_millions"]) == pytest.approx(4e-4)
    assert 0.3 < float(rows[0]["params_millions"]) < 1
    found = json.loads((tmp_path / "out" / "scaling" / "summary.json").read_text())
    assert set(found["slopes"]) == {"DINO", "MAE"}
    assert main(words) == 0
    assert len(fake_training) == 4
    assert "trained already" in capsys.readouterr().out


def test_subsets_become_series_and_a_dry_run_does_nothing(plan_file, tmp_path, fake_training, fake_probe, capsys):
    two = STUDY.replace("{all: images}", "{us: images, ct: owner/name}")
    words = ["study", str(plan_file(two)), "--out", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count(".yaml: dino_smoke with") == 4
    assert "--data owner/name" in shown
    assert '"tasks": ["pneumoniamnist", "busi"]' in shown.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    assert "DINO on ct" in json.loads((tmp_path / "out" / "scaling" / "summary.json").read_text())["slopes"]


def test_results_without_auc_are_refused(plan_file, tmp_path, fake_training, fake_probe, monkeypatch):
    monkeypatch.setattr(command, "by_method", lambda *_: {"knn": [Record("other", "r", "t")]})
    with pytest.raises(UserError, match="holds no AUC"):
        main(["study", str(plan_file()), "--out", str(tmp_path / "out")])


def dense_probe(options):
    """Records of masks and boxes, as probes of both kinds write them; one AP is 0."""
    records = []
    for number, model in enumerate(model.split("=")[0] for model in options.model):
        for task, kind, name in (("vessels", "segmentation", "dice"), ("cells", "detection", "AP")):
            value = (0.3 + 0.05 * number) * (kind == "segmentation" or number > 0)
            entry = {"value": value, "low": value - 0.1, "high": value + 0.1}
            metrics = {name: entry, "auc": None}
            records.append(Record(model=model, task=task, kind=kind, metrics=metrics, **MADE))
    return records


def test_dense_tasks_are_studied_by_their_own_metrics(plan_file, tmp_path, fake_training, monkeypatch):
    monkeypatch.setattr(probe_command, "probe", dense_probe)
    opened = [SimpleNamespace(name=name) for name in ("vessels", "cells")]
    monkeypatch.setattr(probe_command, "open_tasks", lambda options: opened)
    monkeypatch.setattr(probe_command, "make_runs", lambda options: [RUN])
    monkeypatch.setattr(figures, "write_figures", lambda *_: [])
    out = tmp_path / "out"
    assert main(["study", str(plan_file()), "--out", str(out)]) == 0
    rows = list(csv.DictReader((out / "points.csv").open()))
    assert {(row["task"], row["metric"]) for row in rows} == {("vessels", "Dice"), ("cells", "AP (boxes)")}
    assert len([row for row in rows if row["task"] == "cells"]) == 3  # an AP of 0 has no logarithm
    assert float(rows[0]["score"]) == pytest.approx(0.3) and float(rows[0]["low"]) == pytest.approx(0.2)
    summary = json.loads((out / "scaling" / "summary.json").read_text())
    assert summary["metric"] == "Score" and any("mix Dice and AP" in note for note in summary["notes"])


def test_layers_are_measured_once_and_their_slopes_fitted(plan_file, tmp_path, fake_training, fake_probe, monkeypatch):
    calls = []

    def analyse(options):
        calls.append(options)
        names = [model.split("=")[0] for model in options.models]
        rows = [{"model": name, "layer": layer, "depth": layer / 2, "linear": {"auc": {"value": 0.6 + 0.1 * number}},
                 "rankme": 2.0 + number} for number, name in enumerate(names) for layer in (1, 2)]  # fmt: skip
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "layers.json").write_text(json.dumps({"rows": rows}))

    monkeypatch.setattr(command.analyse_command, "analyse", analyse)
    words = ["study", str(plan_file(STUDY + "layers: {task: busi, max_images: 9}\n")), "--out", str(tmp_path / "out")]
    assert main(words) == 0 and main(words) == 0
    assert len(calls) == 1 and calls[0].max_images == 9 and len(calls[0].models) == 4
    slopes = list(csv.DictReader((tmp_path / "out" / "layers" / "slopes.csv").open()))
    assert {row["family"] for row in slopes} == {"DINO", "MAE"}
    assert (tmp_path / "out" / "layers" / "slopes.txt").read_text().startswith("DINO, linear probe")


def test_missing_files_are_reported_before_anything_is_trained(plan_file, tmp_path, fake_training):
    with pytest.raises(UserError, match=r"no pneumoniamnist\*.npz"):
        main(["study", str(plan_file()), "--out", str(tmp_path / "out")])
    assert not fake_training


def test_a_missing_device_is_reported_before_anything_is_trained(plan_file, tmp_path, fake_training):
    with pytest.raises(UserError, match="device cuda:99"):
        main(
            ["study", str(plan_file(STUDY.replace("method: knn", "device: cuda:99"))), "--out", str(tmp_path / "out")]
        )
    assert not fake_training


def test_a_size_without_a_place_on_the_axis_is_reported_after_the_first_run(
    plan_file, tmp_path, fake_training, fake_probe
):
    with pytest.raises(UserError, match=r"DINO_narrow: axis encoder counts named sizes only.* set axis: given"):
        main(["study", str(plan_file(STUDY + "axis: encoder\n")), "--out", str(tmp_path / "out")])
    assert len(fake_training) == 1


@pytest.fixture
def real_models(monkeypatch, make_model):
    """Replaces the training process: writes a random model that `biovfm probe` can load."""

    def run(words, check, env):
        out = Path(words[words.index("--out") + 1])
        make_model(out / "model", hidden_size=width_of(words), num_attention_heads=3)
        (out / "metrics.jsonl").write_text('{"step": 1, "images": 200}\n')
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(pretraining.subprocess, "run", run)
    monkeypatch.setattr(figures, "write_figures", lambda *_: [])


def test_seeds_are_averaged_and_methods_and_changed_settings_stay_apart(
    plan_file, tmp_path, real_models, class_folder
):
    """With the real probe: its records of several seeds, methods and settings once stopped the study at its end."""
    text = STUDY.replace("[pneumoniamnist, busi], data: sets", f"{class_folder}, resamples: 20")
    out = tmp_path / "out"
    assert main(["study", str(plan_file(text)), "--out", str(out)]) == 0
    changed = text.replace("method: knn", 'method: "knn,fewshot", neighbours: 3, shots: "2,4", draws: 2, seed: "0,1"')
    assert main(["study", str(plan_file(changed)), "--out", str(out)]) == 0
    names = {"points.csv", "points-knn.csv", "points-fewshot-2.csv", "points-fewshot-4.csv"}
    assert {path.name for path in out.glob("*.csv")} == names
    for name in names:
        rows = list(csv.DictReader((out / name).open()))
        assert len(rows) == 4
        assert (out / name.replace("points", "scaling").removesuffix(".csv") / "slopes.csv").is_file()
    records = json.loads((out / "results" / "results.json").read_text())
    mine = [r for r in records if (r["model"], r["method"]) == ("DINO_narrow", "fewshot-2")]
    rows = list(csv.DictReader((out / "points-fewshot-2.csv").open()))
    assert len(mine) == 2
    mean = sum(100 * record["metrics"]["auc"]["value"] for record in mine) / 2
    assert float(rows[0]["auc"]) == pytest.approx(mean, rel=1e-4)
