"""`biovfm probe` from end to end: its files, resuming, processes that share a folder, and refusals."""

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.results.record import Record
from evaluation.commands.probe import ProbeOptions, main, probe
from evaluation.encoders.load import load_encoder
from evaluation.probes import judging
from evaluation.probes.linear import Linear
from evaluation.results.records import claimed, locked, merge_records, read_scores, write_record
from evaluation.results.table import mean_cell
from evaluation.statistics.bootstrap import Resampling, intervals
from evaluation.statistics.significance import paired_means
from evaluation.statistics.split import checked_split

FAST = ["--resamples", "50"]


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_model, second_model, class_folder):
    out = tmp_path_factory.mktemp("results")
    words = ["--model", f"first={tiny_model}", "--model", f"second={second_model}", "--tasks", str(class_folder)]
    assert main([*words, "--out", str(out), "--method", "linear,knn", *FAST]) == 0
    return out


def read(out, name="results.json"):
    return json.loads((out / name).read_text())


def test_records_have_the_fields_of_the_design(results):
    records = read(results)
    assert [(r["method"], r["model"]) for r in records] == [
        ("knn", "first"), ("knn", "second"), ("linear", "first"), ("linear", "second"),
    ]  # fmt: skip
    for record in records:
        for name in ("model", "revision", "task", "method", "protocol", "seed", "n_train", "n_test", "seconds"):
            assert record[name] is not None
        assert (record["n_train"], record["n_test"]) == (24, 15)
        for entry in record["metrics"].values():
            assert np.isfinite(entry["value"])
        auc = record["metrics"]["auc"]
        assert auc["low"] <= auc["value"] <= auc["high"]
    assert max(r["metrics"]["auc"]["value"] for r in records if r["method"] == "linear") > 0.9


def test_scores_are_read_by_the_score_command(results, tmp_path):
    from evaluation.commands.score import main as score

    record = read(results)[2]
    out = tmp_path / "scored.json"
    file = str(results / record["scores"])
    assert score([file, "--task", record["kind"], "--protocol", "fast", "--json", str(out)]) == 0
    again = json.loads(out.read_text())["metrics"]
    for name in ("auc", "mcc", "accuracy"):
        assert again[name]["value"] == pytest.approx(record["metrics"][name]["value"], abs=1e-9)


def test_comparisons_are_paired_and_corrected(results):
    rows = read(results, "comparisons.json")
    assert {row["method"] for row in rows} == {"linear", "knn"}
    values = {(r["method"], r["model"]): r["metrics"]["auc"]["value"] for r in read(results)}
    for row in rows:
        assert {"task", "method", "metric", "model_a", "model_b", "difference", "low", "high", "p"} <= set(row)
        if row["metric"] == "auc":
            gap = values[row["method"], row["model_a"]] - values[row["method"], row["model_b"]]
            assert row["difference"] == pytest.approx(gap) and row["p_holm"] >= row["p"]


def test_tables_and_pictures_are_written_with_descriptions(results):
    table = (results / "table.md").read_text()
    assert "## linear, protocol fast" in table and "| first |" in table and "### Differences" in table
    assert r"\toprule" in (results / "table.tex").read_text()
    assert (results / "table.csv").read_text().count("\n") > 30
    pictures = sorted((results / "figures").glob("*.png"))
    assert {p.name.split("_")[0] for p in pictures} == {"attention", "confusion", "pca", "roc", "tsne"}
    for picture in pictures:
        assert len(picture.with_suffix(".txt").read_text()) > 30


def test_nothing_written_names_a_machine_path(results, tiny_model):
    for path in [*results.glob("*.*"), *results.glob("records/*.json"), *results.glob("figures/*.txt")]:
        assert str(tiny_model.parent) not in path.read_text(errors="replace")


def test_a_rerun_makes_only_what_is_missing(results, tiny_model, second_model, class_folder, capsys, monkeypatch):
    gone = sorted((results / "records").glob("first*linear*.json"))
    assert len(gone) == 1
    gone[0].unlink()
    probed = []
    run = Linear.run
    monkeypatch.setattr(Linear, "run", lambda self, trial: probed.append(trial.encoder.name) or run(self, trial))
    words = ["--model", f"first={tiny_model}", "--model", f"second={second_model}", "--tasks", str(class_folder)]
    main([*words, "--out", str(results), "--method", "linear,knn", *FAST])
    assert probed == ["first"] and len(read(results)) == 4
    assert capsys.readouterr().out.count("have ") == 3


def test_changed_weights_replace_the_pictures(tmp_path, make_model, class_folder):
    words = ["--tasks", str(class_folder), "--out", str(tmp_path / "out"), *FAST]
    drawn = []
    for seed in (0, 5):
        main(["--model", f"m={make_model(tmp_path / str(seed), seed=seed)}", *words])
        names = [tmp_path / "out" / "figures" / f"{kind}_m_stripes.png" for kind in ("pca", "attention", "tsne")]
        drawn.append([name.read_bytes() for name in names])
    assert all(old != new for old, new in zip(*drawn, strict=True))
    assert list((tmp_path / "out" / "figures").glob("roc_*"))
    main(["--model", f"m={tmp_path / '5'}", *words, "--no-figures"])
    assert not list((tmp_path / "out" / "figures").glob("roc_*")), "it would not fit later scores"


def test_changed_weights_replace_the_record(tmp_path, make_model, class_folder):
    words = ["--tasks", str(class_folder), "--out", str(tmp_path / "out"), "--no-figures", *FAST]
    main(["--model", f"m={make_model(tmp_path / 'm')}", *words])
    before = read(tmp_path / "out")
    main(["--model", f"m={make_model(tmp_path / 'm', seed=5)}", *words])
    after = read(tmp_path / "out")
    assert len(before) == len(after) == 1 and before[0]["revision"] != after[0]["revision"]


@pytest.mark.usefixtures("traced_only")
def test_a_compiled_probe_gives_the_same_scores(results, tmp_path, tiny_model, class_folder):
    words = ["--model", f"first={tiny_model}", "--tasks", str(class_folder), "--out", str(tmp_path), "--no-figures"]
    main([*words, "--method", "linear,bitfit", "--epochs", "1", "--compile", *FAST])
    wanted = next(r for r in read(results) if (r["method"], r["model"]) == ("linear", "first"))
    found = next(r for r in read(tmp_path) if r["method"] == "linear")
    held = [np.load(out / r["scores"])["test_scores"] for out, r in ((results, wanted), (tmp_path, found))]
    np.testing.assert_allclose(*held, atol=1e-3)
    assert found["settings"] == wanted["settings"]


def test_precisions_are_recorded_and_kept_apart(tmp_path, tiny_model, class_folder):
    words = ["--model", f"first={tiny_model}", "--tasks", str(class_folder), "--out", str(tmp_path), "--no-figures"]
    for precision in ("bf16", "fp32"):
        main([*words, "--precision", precision, *FAST])
    main([*words, *FAST])  # on a CPU in fp32
    found = read(tmp_path)
    assert sorted(record["settings"]["precision"] for record in found) == ["bf16", "fp32"]
    scores = [np.load(tmp_path / record["scores"])["test_scores"] for record in found]
    assert 0 < np.abs(scores[0] - scores[1]).max() < 0.1
    assert "precision bf16" in (tmp_path / "table.md").read_text()


def test_stratified_resamples_keep_class_counts_and_are_recorded(results, tmp_path, tiny_model, class_folder):
    words = ["--model", f"first={tiny_model}", "--tasks", str(class_folder), "--out", str(tmp_path), "--no-figures"]
    main([*words, "--method", "knn,linear", "--stratify", *FAST])
    main([*words, "--model", f"again={tiny_model}", "--method", "knn", "--stratify", "--seed", "0,1", *FAST])
    records = read(tmp_path)
    plain = next(r for r in read(results) if (r["method"], r["model"]) == ("linear", "first"))
    for record in records:
        assert record["settings"]["stratify"] is True
        assert "resamples keep the class counts of the test split" in record["notes"]
        arrays = np.load(tmp_path / record["scores"])
        labels = arrays["test_labels"].reshape(-1)
        assert (arrays["test_strata"] == labels).all()
        if (record["model"], record["method"], record["seed"]) == ("first", "linear", 0):
            split = replace(checked_split(record["kind"], labels, arrays["test_scores"]), strata=labels)
            split = split.decided_at(arrays["thresholds"])
            found = intervals(split, Resampling("fast", 50), extra=True)["brier"]
            entry = record["metrics"]["brier"]
            assert [entry["low"], entry["high"]] == pytest.approx([found["low"], found["high"]], rel=1e-4, abs=0)
            assert entry["value"] == plain["metrics"]["brier"]["value"]
            assert entry["low"] != pytest.approx(plain["metrics"]["brier"]["low"], rel=1e-4, abs=0)
    assert all(row["settings"]["stratify"] for row in read(tmp_path, "comparisons.json"))
    assert "stratify True" in (tmp_path / "table.md").read_text()


def test_cases_without_strata_are_resampled_without_them_and_a_note_says_so():
    assert judging.test_strata(np.zeros((4, 3), int), None) == (None, [
        "resamples are not stratified: cases with several labels have no one class"])  # fmt: skip
    labels, subjects = np.array([0, 1, 1, 0]), np.array(["a", "a", "b", "c"])
    assert "several classes" in judging.test_strata(labels, subjects)[1][0]
    kept, said = judging.test_strata(labels, np.array(["a", "b", "b", "c"]))
    assert (kept == labels).all() and said


@pytest.mark.parametrize("words", [["--protocol", "biovfm"], ["--method", "fewshot,segment"]])
def test_stratify_without_effect_is_refused(tmp_path, tiny_model, class_folder, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--model", str(tiny_model), "--tasks", str(class_folder), "--out", str(tmp_path), "--stratify", *words])
    assert stopped.value.code == 2 and "--stratify" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--authors-drop-path"], "--authors-drop-path: has no effect on linear under protocol fast"),
        (["--protocol", "biovfm", "--features", "auto"], "--features: has no effect on linear under protocol biovfm"),
        (["--method", "linear,knn", "--shots", "4"], "--shots: has no effect on linear, knn under protocol fast"),
        (["--protocol", "radiology", "--method", "knn"], "'knn' is none of fewshot, linear, segment under"),
        (["--method", "lineer"], "did you mean linear?"),
        (["--pool", "attention"], "is not one of mean, max, mean_max, middle (pooling of a volume's slices"),
    ],
)
def test_settings_that_no_method_has_are_refused(tmp_path, tiny_model, class_folder, words, reason, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--model", str(tiny_model), "--tasks", str(class_folder), "--out", str(tmp_path), *words])
    assert stopped.value.code == 2 and reason in capsys.readouterr().err


def test_records_state_their_costs(results, tiny_model):
    frozen = sum(p.numel() for p in load_encoder(str(tiny_model)).module.parameters())
    for record in read(results):
        costs, trained = record["costs"], 2 * (64 + 1) if record["method"] == "linear" else 0
        assert costs["trained_parameters"] == trained and costs["parameters"] >= frozen + trained
        assert costs["share"] == trained / costs["parameters"] and costs["seconds"] == record["seconds"]
        assert costs["peak_memory_mib"] > 0 and costs["memory_of"] == "process"


def test_records_state_the_versions_that_made_them(results):
    for record in read(results):
        assert record["software"]["torch"] and record["software"]["transformers"]


def test_authors_protocol_with_views(tmp_path, tiny_model, class_folder):
    words = ["--model", str(tiny_model), "--tasks", str(class_folder), "--out", str(tmp_path), "--no-figures", *FAST]
    main([*words, "--protocol", "biovfm", "--views", "2", "--epochs", "4"])
    record = read(tmp_path)[0]
    assert record["protocol"] == "biovfm"
    assert record["settings"] == {"views": 2, "epochs": 4, "precision": "fp32", "features": "mean_raw"}
    assert record["metrics"]["mcc"]["mean"] is not None


def test_methods_that_the_authors_did_not_run_take_thresholds_between_scores(tmp_path, tiny_model, make_class_folder):
    """All neighbours agree, so positives score 1.0; the authors' rule takes 1.0 as threshold; none exceeds it."""
    folder = make_class_folder(tmp_path / "apart")
    words = ["--model", str(tiny_model), "--tasks", str(folder), "--out", str(tmp_path / "out"), "--no-figures", *FAST]
    main([*words, "--method", "knn", "--neighbours", "1", "--protocol", "biovfm", "--features", "both"])
    (record,) = merge_records(tmp_path / "out")
    arrays = read_scores(tmp_path / "out", record)
    assert arrays["val_scores"].max() == 1.0 and record.kind == "binary-class"
    assert record.setting("thresholds") == "midway" and record.thresholds == [0.5]
    assert record.metrics["auc"]["value"] > 0.8 and record.metrics["mcc"]["value"] > 0.6


@pytest.mark.parametrize("decoder", ["linear", "unet"])
def test_segmentation_writes_dice_per_case(tmp_path, tiny_model, second_model, mask_folder, decoder):
    words = ["--model", f"a={tiny_model}", "--model", f"b={second_model}", "--tasks", str(mask_folder)]
    words += ["--out", str(tmp_path), "--method", "segment", "--decoder", decoder, "--epochs", "40", *FAST]
    main(words)
    records = read(tmp_path)
    assert {r["method"] for r in records} == {"segment" if decoder == "linear" else "segment-unet"}
    for record in records:
        assert record["metrics"]["dice"]["value"] > 0.5 and record["metrics"]["jaccard"]["cases"] == 5
        assert np.load(tmp_path / record["scores"])["test_counts"].shape == (5, 2, 4)
        names = {"radiology", "radiology_dice", "radiology_jaccard", "hd95", "nsd", "assd"}
        assert names <= {*record["metrics"], *record["undefined"]} and 0 < record["metrics"]["radiology"]["value"] < 1
        assert any("DeepMind" in note and "2 pixels" in note for note in record["notes"])
        assert set(record["lower_is_better"]) == {"hd95", "assd"}
    assert {row["metric"]: row["lower_is_better"] for row in read(tmp_path, "comparisons.json")} == {
        "dice": False, "jaccard": False, "radiology": False, "hd95": True, "nsd": False, "assd": True,
    }  # fmt: skip
    table = (tmp_path / "table.md").read_text()
    distance = f"{records[0]['metrics']['hd95']['value']:.2f} ("
    assert "| HD95 |" in table and distance in table.replace("*", "")  # in pixels, not in percent
    assert list((tmp_path / "figures").glob("masks_*.png"))


def test_a_class_missing_from_test_is_a_stated_undefined_metric(tmp_path, tiny_model, make_class_folder):
    folder = make_class_folder(tmp_path / "task", 3, {"train": 18, "val": 9, "test": 12})
    for path in (folder / "test" / "class2").iterdir():
        path.unlink()
    words = ["--model", str(tiny_model), "--tasks", str(folder), "--out", str(tmp_path / "out"), "--no-figures", *FAST]
    main([*words, "--method", "linear,fewshot", "--shots", "2", "--draws", "2"])
    for record in read(tmp_path / "out"):
        assert "auc" not in record["metrics"] and "no sample of class 2" in record["undefined"]["auc"]
        assert any("balanced accuracy averages over the classes that occur" in note for note in record["notes"])
    table = (tmp_path / "out" / "table.md").read_text()
    assert "undefined" in table


def test_a_class_missing_from_validation_is_reported(tmp_path, tiny_model, make_class_folder):
    folder = make_class_folder(tmp_path / "task", 3, {"train": 18, "val": 9, "test": 12})
    for path in (folder / "val" / "class2").iterdir():
        path.unlink()
    command = ["--model", str(tiny_model), "--tasks", str(folder), "--out", str(tmp_path / "out"), "--no-figures"]
    main([*command, "--method", "linear,fewshot", "--shots", "2", "--draws", "2", *FAST])
    for record in read(tmp_path / "out"):
        assert "val: no case of class2, which has no part in what is chosen" in record["notes"]


@pytest.mark.parametrize("method", ["linear", "knn", "fewshot", "bitfit"])
def test_a_test_split_of_one_class_gives_stated_undefined_metrics(tmp_path, tiny_model, make_class_folder, method):
    folder = make_class_folder(tmp_path / "task", 2)
    for path in (folder / "test" / "class1").iterdir():
        path.unlink()
    words = ["--model", str(tiny_model), "--tasks", str(folder), "--out", str(tmp_path / "out"), "--no-figures"]
    settings = {"fewshot": ["--shots", "2", "--draws", "2"], "bitfit": ["--epochs", "1"]}.get(method, [])
    main([*words, "--method", method, *settings, *FAST])
    record = read(tmp_path / "out")[0]
    assert {"auc", "mcc", "balanced_accuracy"} <= set(record["undefined"]) and record["metrics"]["accuracy"]
    assert not {"auc", "mcc", "balanced_accuracy"} & set(record["metrics"])


def test_intervals_of_a_trial_run_are_not_kept_for_those_of_the_real_one(tmp_path, tiny_model, class_folder):
    words = ["--model", str(tiny_model), "--tasks", str(class_folder), "--out", str(tmp_path), "--no-figures"]
    main([*words, "--resamples", "20"])
    assert read(tmp_path)[0]["resamples"] == 20
    assert "- intervals rest on 20 resamples" in (tmp_path / "table.md").read_text()
    main(words)
    assert [record["resamples"] for record in read(tmp_path)] == [1000]
    assert "intervals rest on" not in (tmp_path / "table.md").read_text()


def test_one_class_in_validation_is_an_error_that_says_so(tmp_path, tiny_model, make_class_folder):
    folder = make_class_folder(tmp_path / "task", 2)
    for path in (folder / "val" / "class1").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"tiny on task by linear: val_labels.*both classes"):
        main(["--model", str(tiny_model), "--tasks", str(folder), "--out", str(tmp_path / "out"), *FAST])


def test_few_samples_per_split_are_scored_or_refused_with_a_reason(tmp_path, tiny_model, make_class_folder):
    words = ["--model", str(tiny_model), "--out", str(tmp_path / "out"), "--no-figures", *FAST]
    three = make_class_folder(tmp_path / "three", 2, {"train": 3, "val": 3, "test": 3})
    four = make_class_folder(tmp_path / "four", 2, {"train": 4, "val": 4, "test": 4})
    main([*words, "--tasks", f"{three},{four}"])
    record = next(record for record in read(tmp_path / "out") if record["task"] == "three")
    assert record["metrics"]["auc"]["value"] is not None and record["metrics"]["auc"]["low"] is None
    assert any(note.startswith("no interval of ") and "auc" in note for note in record["notes"])
    record = next(record for record in read(tmp_path / "out") if record["task"] == "four")
    entry = record["metrics"]["auc"]
    assert entry["low"] is not None and entry["undefined_resamples"] > 0
    assert any("auc" in note and "of 50 resamples, which lack a class" in note for note in record["notes"])
    assert "50 resamples, which lack a class" in (tmp_path / "out" / "table.md").read_text()


def test_one_test_case_has_no_interval_and_no_p(tmp_path, tiny_model, second_model, make_mask_folder):
    folder = make_mask_folder(tmp_path / "task", {"train": 2, "val": 1, "test": 1})
    words = ["--model", f"a={tiny_model}", "--model", f"b={second_model}", "--tasks", str(folder)]
    main([*words, "--out", str(tmp_path / "out"), "--method", "segment", "--no-figures", *FAST])
    for record in read(tmp_path / "out"):
        entry = record["metrics"]["dice"]
        assert entry["value"] > 0 and entry["low"] is None and "gives no interval" in entry["reason"]
    for row in read(tmp_path / "out", "comparisons.json"):
        assert row["p"] is None and row["p_holm"] is None and row["low"] is None
    assert "| no p |" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("words", [["--stratify"], [], ["--seed", "0,1"], ["--method", "fewshot", "--shots", "2"]])
def test_one_test_case_in_a_class_has_no_interval_and_no_p(
    tmp_path, tiny_model, second_model, make_class_folder, words
):
    folder = make_class_folder(tmp_path / "rare", splits={"train": 12, "val": 8, "test": 9})
    for path in sorted((folder / "test" / "class1").iterdir())[1:]:
        path.unlink()
    models = ["--model", f"a={tiny_model}", "--model", f"b={second_model}"]
    main([*models, "--tasks", str(folder), "--out", str(tmp_path / "out"), "--no-figures", *words, *FAST])
    why = "one case or subject alone is of class 1"
    for record in read(tmp_path / "out"):
        entry = record["metrics"]["auc"]
        assert entry["value"] is not None and record["metrics"]["accuracy"]["low"] is not None
        if record["method"] == "linear":  # few-shot intervals are over draws
            assert entry["low"] is None and entry["high"] is None and entry["reason"] == why
    for row in read(tmp_path / "out", "comparisons.json"):
        if row["metric"] != "accuracy":
            assert row["p"] is None and row["p_holm"] is None and row["reason"] == why
    table = (tmp_path / "out" / "table.md").read_text()
    assert f"no p: {why}" in table and "no p |" in table
    if "fewshot" not in words:
        assert "no interval of mcc, balanced_accuracy, f1_macro, auc" in table


def test_the_positive_class_is_named_wherever_its_scores_are(tmp_path, tiny_model, make_class_folder, capsys):
    folder = make_class_folder(tmp_path / "scans", 2)
    for split in ("train", "val", "test"):
        (folder / split / "class0").rename(folder / split / "disease")
        (folder / split / "class1").rename(folder / split / "healthy")
    words = ["--model", str(tiny_model), "--tasks", str(folder), "--method", "knn", *FAST]
    for positive, given in (("disease", []), ("healthy", ["--positive", "healthy"])):
        out = tmp_path / positive
        assert main([*words, "--out", str(out), *given]) == 0
        record = read(out)[0]
        assert record["positive"] == record["classes"][1] == positive
        assert f"- F1 is of the positive class, {positive}" in (out / "table.md").read_text()
        assert f"ROC curves (positive: {positive})" in (out / "figures" / "roc_scans_knn_fast.txt").read_text()
        assert ("the positive class is disease, not healthy" in capsys.readouterr().err) == (not given)
    with pytest.raises(UserError, match="did you mean disease"):
        main([*words, "--out", str(tmp_path / "x"), "--positive", "desease"])
    with pytest.raises(UserError, match="task three: --positive disease is for a list or folder of two classes"):
        main(["--model", str(tiny_model), "--tasks", str(make_class_folder(tmp_path / "three", 3)), "--out",
              str(tmp_path / "x"), "--positive", "disease"])  # fmt: skip


def test_one_reason_of_several_failures_is_reported_once(
    tmp_path, tiny_model, second_model, make_class_folder, capsys
):
    folder = make_class_folder(tmp_path / "broken", 2)
    next((folder / "test" / "class0").iterdir()).write_bytes(b"no image")
    words = ["--model", f"a={tiny_model}", "--model", f"b={second_model}", "--tasks", str(folder)]
    with pytest.raises(UserError) as error:
        main([*words, "--method", "linear,knn", "--out", str(tmp_path / "out"), *FAST])
    lines = [
        line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines() if line.startswith("error:")
    ]
    assert len(lines) == 1 and lines[0].startswith("a on broken by linear: ")
    assert str(error.value) == f"4 of the records could not be made: {lines[0]}"


def test_a_failing_task_does_not_stop_the_others(tmp_path, tiny_model, class_folder, make_class_folder):
    folder = make_class_folder(tmp_path / "broken", 2)
    next((folder / "test" / "class0").iterdir()).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of the records could not be made: .* on broken by linear: "):
        main(
            ["--model", str(tiny_model), "--tasks", f"{folder},{class_folder}", "--out", str(tmp_path / "out"), *FAST]
        )
    assert [r["task"] for r in read(tmp_path / "out")] == ["stripes"]


def test_python_gets_the_first_of_several_causes(tmp_path, class_folder, capsys):
    with pytest.raises(UserError) as error:
        probe(ProbeOptions(model=["timm:pixels"], tasks=[str(class_folder)], out=tmp_path / "out"))
    cause = capsys.readouterr().err.partition("error: ")[2].strip()
    assert "Unknown model (pixels)" in cause
    assert str(error.value) == f"1 of the records could not be made: {cause}"


def test_several_causes_are_counted(tmp_path, make_class_folder, tiny_model, capsys):
    folders = [make_class_folder(tmp_path / name, 2) for name in ("first", "second")]
    for folder in folders:
        next((folder / "test" / "class0").iterdir()).write_bytes(b"no image")
    names = ",".join(map(str, folders))
    with pytest.raises(
        UserError, match=r"2 of the records could not be made, for 2 reasons .*: .* on first by linear"
    ):
        probe(ProbeOptions(model=[str(tiny_model)], tasks=names, out=tmp_path / "out"))
    assert capsys.readouterr().err.count("error: ") == 2


SENSELESS = ["--epochs 0", "--rate -1", "--rate nan", "--neighbours 0", "--temperature 0", "--draws 0"]
SENSELESS += ["--batch-size 0", "--resamples 0", "--image-size 0", "--views -1", "--epochs few"]


@pytest.mark.parametrize("words", SENSELESS)
def test_senseless_numbers_are_refused_before_the_work(tmp_path, tiny_model, class_folder, words, capsys):
    command = ["--model", str(tiny_model), "--tasks", str(class_folder), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        main([*command, *words.split()])
    assert stopped.value.code == 2 and words.split()[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_scored_is_reported_before_the_images_are_embedded(tmp_path, tiny_model, make_class_folder):
    folder = make_class_folder(tmp_path / "task", 2)
    for path in (folder / "val" / "class1").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="one class only"):
        main(["--model", str(tiny_model), "--tasks", str(folder), "--out", str(tmp_path / "out"), *FAST])
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_file_for_the_results_folder_is_refused(tmp_path, tiny_model, class_folder, capsys):
    (tmp_path / "out").touch()
    with pytest.raises(SystemExit):
        main(["--model", str(tiny_model), "--tasks", str(class_folder), "--out", str(tmp_path / "out")])
    assert "is a file" in capsys.readouterr().err


def test_misuse_is_reported(tmp_path, tiny_model, class_folder, mask_folder, capsys):
    for words in (["--tasks", "x"], ["--model", "m", "--tasks", "x", "--out", "o", "--method", "magic"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
    capsys.readouterr()
    common = ["--model", str(tiny_model), "--out", str(tmp_path)]
    with pytest.raises(UserError, match="no method of linear applies"):
        main([*common, "--tasks", str(mask_folder)])
    with pytest.raises(UserError, match="two models are called tiny"):
        main([*common, "--model", str(tiny_model), "--tasks", str(class_folder)])


def test_listing_needs_nothing_else(capsys):
    assert main(["--list-tasks"]) == 0
    assert "pneumoniamnist" in capsys.readouterr().out


def test_help_does_not_import_torch():
    code = (
        "import sys; from evaluation.commands.probe import build_parser; build_parser(); print('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert run.stdout.strip() == "False"


WRITER = """
import sys, numpy as np
from pathlib import Path
from biovfm_hf.results.record import Record
from evaluation.results.records import write_record
for number in range(25):
    record = Record(sys.argv[2], "r", f"t{number}", "d", method="m", protocol="p", seed=0)
    write_record(Path(sys.argv[1]), record, {"x": np.zeros(2)})
"""


def test_two_processes_lose_nothing(tmp_path):
    root = Path(__file__).resolve().parents[3]
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], cwd=root) for name in ("left", "right")
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(read(tmp_path)) == 50 and not list(tmp_path.glob(".results*"))


def test_a_broken_record_is_named(tmp_path):
    write_record(tmp_path, Record("m", "r", "t", method="x", protocol="p", seed=0), {"x": np.zeros(1)})
    (path,) = (tmp_path / "records").glob("*.json")
    for text, reason in (("{", "not valid JSON"), ("[]", "is not an object"), ('{"task": "t"}', "has no 'model'")):
        path.write_text(text)
        with pytest.raises(UserError, match=f"{path.name}.*{reason}.*remove it"):
            merge_records(tmp_path)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("kept", [0, 1, 50, 200, 0.5, 0.99])
def test_broken_scores_are_named(tmp_path, kept):
    scores = np.random.default_rng(0).random(500)
    record = write_record(tmp_path, Record("m", "r", "t", method="x", protocol="p", seed=0), {"x": scores})
    path = next((tmp_path / "scores").iterdir())
    path.write_bytes(path.read_bytes()[: int(kept if kept >= 1 else kept * path.stat().st_size)])
    with pytest.raises(UserError, match="cannot be read"):
        read_scores(tmp_path, record)


def test_mean_over_tasks_adds_in_quadrature():
    cells = [{"value": 0.8, "low": 0.77, "high": 0.83}, {"value": 0.6, "low": 0.56, "high": 0.64}]
    found = mean_cell(cells)
    assert found["value"] == pytest.approx(0.7)
    assert found["low"] == pytest.approx(0.7 - 0.025) and found["high"] == pytest.approx(0.7 + 0.025)
    assert mean_cell([cells[0], None]) is None


def test_paired_means_distinguish_real_differences_from_none():
    rng = np.random.default_rng(0)
    real = paired_means(rng.normal(0.5, 1, 200))
    none = paired_means(rng.normal(0.0, 1, 200))
    assert real["p"] < 0.01 and real["low"] > 0 and none["p"] > 0.01
    assert paired_means(np.full(5, np.nan))["difference"] is None


@pytest.mark.parametrize(("cases", "p"), [(2, 0.5), (4, 0.125), (6, 0.03125)])
def test_few_cases_are_not_taken_for_proof(cases, p):
    """Four differences of one sign have that sign in every resample, which gives the lowest p of a bootstrap."""
    differences = np.linspace(0.1, 0.2, cases)
    assert paired_means(differences)["p"] == p
    subjects = np.repeat(np.arange(cases), 5)
    assert paired_means(np.repeat(differences, 5), clusters=subjects)["p"] == p
    assert paired_means(differences, clusters=np.zeros(cases))["p"] is None


def test_a_claim_is_one_process_and_leaves_no_file(tmp_path):
    keys = ("key", "key", "other")
    with ExitStack() as held:
        assert [held.enter_context(claimed(tmp_path, key, wait=False)) for key in keys] == [True, False, True]
    assert not list((tmp_path / "records").iterdir())


HOLDER = """
import sys, time
from pathlib import Path
from evaluation.results.records import claimed
with claimed(Path(sys.argv[1]), "key", wait=False):
    print("held", flush=True)
    time.sleep(300)
"""


def test_the_claim_of_a_killed_process_is_free(tmp_path):
    root = Path(__file__).resolve().parents[3]
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with claimed(tmp_path, "key", wait=False) as mine:
            assert not mine
        holder.kill()
    with claimed(tmp_path, "key", wait=True) as mine:
        assert mine


def test_a_model_that_cannot_be_loaded_is_reported_before_the_work(tmp_path, tiny_model, class_folder):
    words = ["--model", str(tiny_model), "--model", "timm:no_such_model", "--tasks", str(class_folder)]
    with pytest.raises(UserError, match="no_such_model"):
        main([*words, "--out", str(tmp_path), "--no-figures", *FAST])
    assert not list(tmp_path.glob("records/*.json"))
