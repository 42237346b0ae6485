"""The study runner: its plan, its commands, resuming, and its points from the results."""

import csv
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from biovfm_hf import BioVFMConfig
from biovfm_hf.errors import UserError
from biovfm_hf.options import parse_options
from biovfm_hf.results.record import Record
from evaluation.analysis.scaling import figures, study
from evaluation.analysis.scaling_command import main
from evaluation.commands import probe as probe_command
from evaluation.probes.knn import NearestNeighbours
from evaluation.probes.probe import Run

STUDY = """
families:
  DINO: {objective: dino, config: dino_smoke, steps: 5}
  MAE: {config: own.yaml}
sizes:
  narrow: {model.hidden_size: 48, augment.scale: [0.5, 1.0]}
  wide: {model.hidden_size: 96, steps: 9}
subsets: {all: images}
overrides: {steps: 3, batch.size: 4}
probe: {tasks: [pneumoniamnist, busi], data: sets, method: knn, no_figures: true, download: false}
"""


@pytest.fixture
def plan_file(tmp_path):
    def write(text=STUDY):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "own.yaml").write_text("steps: 1")
        (tmp_path / "study.yaml").write_text(text)
        return tmp_path / "study.yaml"

    return write


@pytest.fixture
def fake_training(monkeypatch):
    """Replaces the training process: writes the files of a finished run and records the commands."""
    calls = []

    def run(words, check, env):
        calls.append(words)
        out = Path(words[words.index("--out") + 1])
        width = next(int(w.split("=")[1]) for w in words if w.startswith("model.hidden_size="))
        BioVFMConfig(hidden_size=width, num_attention_heads=3).save_pretrained(out / "model")
        (out / "metrics.jsonl").write_text('{"step": 1, "images": 200}\n{"step": 2, "images": 400}\n')
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(study.subprocess, "run", run)
    return calls


RUN = Run(NearestNeighbours())
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


def test_a_plan_holds_every_combination_with_later_overrides_on_top(plan_file, tmp_path):
    plan = study.read_plan(plan_file())
    assert [run.name for run in plan.runs] == ["DINO_narrow", "DINO_wide", "MAE_narrow", "MAE_wide"]
    steps = {run.name: run.overrides["steps"] for run in plan.runs}
    assert steps == {"DINO_narrow": 5, "DINO_wide": 9, "MAE_narrow": 3, "MAE_wide": 9}
    assert plan.runs[0].data == str(tmp_path / "images")
    assert plan.runs[2].config == str(tmp_path / "own.yaml")
    command = plan.runs[0].command(tmp_path / "run", plan.launch)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    assert command[-command[::-1].index("-m") - 1 :][:6] == [
        "-m",
        "biovfm_hf.cli",
        "pretrain",
        "dino_smoke",
        "--data",
        plan.runs[0].data,
    ]
    assert "method=dino" in command and "method=dino" not in plan.runs[2].command(tmp_path / "run", plan.launch)
    assert "augment.scale=[0.5, 1.0]" in command


def test_task_paths_are_relative_to_the_study_file_and_names_are_names(plan_file, tmp_path):
    (tmp_path / "busi").mkdir()  # a data folder beside the file is not the task of its name
    (tmp_path / "mine.csv").touch()
    plan = study.read_plan(plan_file(STUDY.replace("[pneumoniamnist, busi]", '"busi, mine.csv"')))
    assert plan.probe["tasks"] == ["busi", str(tmp_path / "mine.csv")]


def test_families_come_in_the_order_of_the_study_file(plan_file, tmp_path, fake_training, fake_probe):
    text = STUDY.replace("  DINO:", "  Z-DINO:")
    assert main(["study", str(plan_file(text)), "--out", str(tmp_path / "out")]) == 0
    results = tmp_path / "out" / "results" / "results.json"
    records = [Record.read(row, "results.json") for row in json.loads(results.read_text())]
    plan = study.read_plan(tmp_path / "study.yaml")
    rows = study.points(plan, sorted(records, key=lambda record: record.model), tmp_path / "out")
    assert list(dict.fromkeys(row["family"] for row in rows)) == ["Z-DINO", "MAE"]


def test_a_task_called_mean_is_refused_before_anything_is_trained(plan_file, tmp_path, fake_training, class_folder):
    shutil.copytree(class_folder, tmp_path / "Mean")
    text = STUDY.replace("[pneumoniamnist, busi]", "Mean")
    with pytest.raises(UserError, match="a task of the study is called mean"):
        main(["study", str(plan_file(text)), "--out", str(tmp_path / "out")])
    assert not fake_training


def test_the_probe_understands_its_arguments(plan_file, tmp_path):
    arguments = study.probe_arguments(study.read_plan(plan_file()), tmp_path)
    options = parse_options(probe_command.build_parser(), probe_command.options_class(), arguments)
    assert len(options.model) == 4
    assert options.tasks == ("pneumoniamnist", "busi")
    assert options.no_figures
    assert not options.download


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


def test_an_interrupted_study_trains_what_is_missing(plan_file, tmp_path, fake_training, fake_probe):
    words = ["study", str(plan_file()), "--out", str(tmp_path / "out")]
    main(words)
    (tmp_path / "out" / "runs" / "MAE_wide" / "model" / "config.json").unlink()
    assert main(words) == 0
    assert "MAE_wide" in " ".join(fake_training[-1])
    assert len(fake_training) == 5


def test_changed_settings_are_refused(plan_file, tmp_path, fake_training, fake_probe):
    main(["study", str(plan_file()), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="other settings"):
        main(["study", str(plan_file(STUDY.replace("steps: 9", "steps: 10"))), "--out", str(tmp_path / "out")])


def test_a_failed_run_stops_the_study_with_its_name(plan_file, tmp_path, fake_probe, monkeypatch):
    monkeypatch.setattr(study.subprocess, "run", lambda words, check, env: subprocess.CompletedProcess(words, 3))
    with pytest.raises(UserError, match="DINO_narrow ended with status 3"):
        main(["study", str(plan_file()), "--out", str(tmp_path / "out")])


def test_subsets_become_series_and_a_dry_run_does_nothing(plan_file, tmp_path, fake_training, fake_probe, capsys):
    two = STUDY.replace("{all: images}", "{us: images, ct: owner/name}")
    words = ["study", str(plan_file(two)), "--out", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("pretrain dino_smoke") == 4
    assert "--data owner/name" in shown
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    assert "DINO on ct" in json.loads((tmp_path / "out" / "scaling" / "summary.json").read_text())["slopes"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("families: [", "not valid YAML"),
        ("- 1", "not a YAML mapping"),
        (STUDY.replace("overrides:", "override:"), "unknown key override"),
        (STUDY.replace("config: dino_smoke", "objective: [a]"), "needs a config"),
        (STUDY.replace("narrow:", "a/b:"), "cannot name a folder"),
        (STUDY.replace("subsets: {all: images}", "subsets: {}"), "subsets must be a mapping"),
        (STUDY.replace("subsets: {all: images}", "subsets: {all: 3}"), "must be a dataset folder"),
        (STUDY.replace("tasks: [pneumoniamnist, busi], ", ""), "names tasks"),
        (STUDY + "launch: all\n", "list of arguments"),
        (STUDY + "axis: bogus\n", "unknown axis 'bogus'; choose one of: given, encoder"),
        (
            STUDY.replace("MAE: {", "MAE: {objective: distill, ") + "axis: compute\n",
            "MAE has the objective 'distill', but axis compute",
        ),
        (STUDY + "axis: compute\n", "MAE has no named objective, but axis compute"),
        (STUDY + "properties: nothing.csv\n", "nothing.csv: no such file"),
        (STUDY.replace("busi]", "bussi]"), "'bussi' is neither a task nor a path that exists; did you mean busi"),
        (STUDY.replace("method: knn", "method: svm"), "method: 'svm' is none of"),
        (STUDY + "metric: nothing\n", "no metric is called nothing"),
        (STUDY + "layers: busi\n", "layers must be a mapping"),
        (STUDY + "layers: {task: busi, depth: 3}\n", "layers: unknown option depth"),
        (STUDY + "layers: {task: busi, max_images: 1}\n", "layers: max_images: 1 must be 4"),
        (STUDY.replace("method: knn", "methode: knn"), "unknown option methode; known are"),
        (STUDY.replace("method: knn", 'seed: "0,x"'), "seed: 'x' is not of type int"),
        (STUDY.replace("method: knn", "size: 99"), "size: 99 is not one of"),
        (STUDY.replace("method: knn", "out: elsewhere"), "out is set by the study"),
    ],
)
def test_unfit_studies_get_a_clear_message(plan_file, text, words):
    with pytest.raises(UserError, match=words) as caught:
        main(["study", str(plan_file(text)), "--out", "nowhere", "--dry-run"])
    assert "study.yaml" in str(caught.value) or "nothing.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_results_without_auc_are_refused(plan_file, tmp_path, fake_training, fake_probe, monkeypatch):
    monkeypatch.setattr(study, "by_method", lambda *_: {"knn": [Record("other", "r", "t")]})
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

    monkeypatch.setattr(study.analyse_command, "analyse", analyse)
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
        width = next(int(w.split("=")[1]) for w in words if w.startswith("model.hidden_size="))
        make_model(out / "model", hidden_size=width, num_attention_heads=3)
        (out / "metrics.jsonl").write_text('{"step": 1, "images": 200}\n')
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(study.subprocess, "run", run)
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
