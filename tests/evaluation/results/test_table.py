"""The content of a results folder's tables."""

import csv
import io
from dataclasses import replace

import pytest

from biovfm_hf.results.record import Record
from evaluation.pictures.scores import rank_table
from evaluation.results.table import latex, long_csv, markdown
from evaluation.tasks import GROUPS


def results(tasks=("t",), method="linear", protocol="fast", values=(0.8,), settings=({},), **further):
    """One record per task, and per value with its settings."""
    entries = ({"auc": {"value": value, "low": value - 0.1, "high": value + 0.1}} for value in values)
    named = dict(
        model="m", revision="r", method=method, protocol=protocol, seed=0, resamples=1000, n_train=9, n_test=9
    )
    return [
        Record(**{**named, **further}, task=task, settings=chosen, metrics=entry, primary="auc", undefined={})
        for entry, chosen in zip(entries, settings, strict=True)
        for task in tasks
    ]


@pytest.mark.parametrize(
    ("method", "protocol", "beside"),
    [("linear", "biovfm", True), ("linear", "fast", False), ("knn", "biovfm", False), ("fewshot-16", "biovfm", False)],
)
def test_published_rows_stand_beside_rows_of_the_same_tasks(method, protocol, beside):
    records = results(GROUPS["medmnist"], method, protocol)
    for text in (markdown(records, []), latex(records), long_csv(records, records)):
        assert ("RAD-DINO (published)" in text) == beside
    assert "(published)" not in markdown(results(GROUPS["medmnist"][1:], "linear", "biovfm"), [])


@pytest.mark.parametrize(("protocol", "beside"), [("biovfm", True), ("fast", False)])
@pytest.mark.parametrize("write", [lambda records: markdown(records, []), latex])
def test_a_note_below_published_rows_states_how_our_protocol_differs(write, protocol, beside):
    text = write(results(GROUPS["medmnist"], "linear", protocol))
    assert ("leaves stochastic depth on" in text) == beside
    assert ("AUC 92.00 by ours and 88.89 by theirs, over 15 seeds" in text) == beside


@pytest.mark.parametrize("write", [lambda records: markdown(records, []), latex])
def test_with_the_authors_stochastic_depth_the_note_says_so(write):
    text = write(results(GROUPS["medmnist"], "linear", "biovfm", settings=({"authors_drop_path": True},)))
    assert "was left on" in text and "RAD-DINO (published)" in text and "88.89" not in text


def test_every_line_of_the_csv_file_has_its_own_name():
    """Two settings of one probe on the twelve tasks, each beside the published means."""
    settings = ({"features": "both"}, {"features": "class"})
    records = results(GROUPS["medmnist"], "linear", "biovfm", (0.8, 0.7), settings)
    rows = list(csv.DictReader(io.StringIO(long_csv(records, records))))
    names = [tuple(value for name, value in row.items() if name not in ("value", "low", "high")) for row in rows]
    assert len(names) == len(set(names)) and {row["settings"] for row in rows} == {
        "features both",
        "features class",
        "",
    }
    means = {
        row["settings"]: row["value"] for row in rows if row["task"] == "mean of 12 tasks" and row["model"] == "m"
    }
    assert float(means["features both"]) == pytest.approx(0.8) and float(means["features class"]) == pytest.approx(0.7)


def test_a_metric_that_a_record_lacks_is_not_recorded_rather_than_undefined():
    """As after a metric was added: one model's record is older, and the other's test split leaves a value out."""
    old = results(("t", "u"), model="old")
    new = [replace(record, model="new", metrics={**record.metrics, "mcc": {"value": 0.5}}) for record in old]
    new[1] = replace(new[1], metrics=old[1].metrics, undefined={"mcc": "one class has no case"})
    text = markdown([*old, *new], [])
    rows = [line for line in text.splitlines() if line.startswith(("| old", "| new"))]
    assert [row.split(" | ")[1] for row in rows[:4]] == ["not recorded", "undefined", "not recorded", "50.00"]
    assert "- MCC not recorded for old: the record is older than the metric; remove it from records/" in text
    assert "- mcc undefined: one class has no case" in text and "not recorded for new" not in text
    assert "old & not recorded & " in latex([*old, *new])


def test_a_model_of_several_weights_has_no_mean_and_rows_of_several_data_say_so():
    """As when a model is trained further and probed again on one of two tasks, or a task's file changes in between."""
    new, old, same = (
        results(tasks, revision=revision, data="d")[0]
        for tasks, revision in ((["t"], "new"), (["u"], "old"), (["u"], "new"))
    )
    assert "Mean over 2 tasks" in markdown([new, same], [])
    text = markdown([new, old], [])
    assert "Mean over 2 tasks" not in text and "m is of other weights on some tasks than on others" in text
    other = replace(same, model="n")
    assert rank_table([new, old, replace(new, model="n"), other])[0] == ["n"]
    assert "not all of the same data" not in markdown([same, other], [])
    changed = replace(other, data="e")
    assert "not all of the same data" in markdown([same, changed], [])
    assert rank_table([new, same, replace(new, model="n"), changed])[1].shape == (1, 2)
