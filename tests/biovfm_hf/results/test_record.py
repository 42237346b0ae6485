"""A record is read as it was written, byte for byte; a message says what is wrong with a file that is not a record."""

import json

import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.results.record import Interval, Record, settings_text

ROW = {
    "model": "m", "revision": "r", "task": "t", "data": "d", "method": "linear", "protocol": "fast", "seed": 0,
    "settings": {"precision": "fp32", "features": "both"}, "resamples": 50, "kind": "multiclass", "primary": "auc",
    "classes": ["a", "b"], "few_shot": True,
    "metrics": {"auc": {"value": 0.8, "low": 0.7, "high": 0.9, "further": 1}, "mcc": {"value": None}, "dice": 1},
    "undefined": {"mcc": "one class only"}, "thresholds": [0.5], "chosen": {"c": 1.0}, "notes": ["n"], "warnings": [],
    "leaks": ["one patient in train and test"],
    "n_train": 9, "n_test": 8, "seconds": 1.25, "costs": {"share": 0.0}, "licence": "CC0", "modality": "CT",
    "software": {}, "sharpness": 2, "scores": "scores/a.npz",
}  # fmt: skip


@pytest.mark.parametrize(
    "absent", [(), ("data", "resamples", "thresholds", "notes", "warnings", "costs", "sharpness")]
)
def test_a_record_keeps_every_byte_of_its_row(absent):
    row = {name: value for name, value in ROW.items() if name not in absent}
    assert json.dumps(Record.read(row, "a record").to_json()) == json.dumps(row)


def test_fields_that_come_in_another_order_are_written_in_that_of_the_file():
    assert list(Record.read(dict(reversed(ROW.items())), "a record").to_json()) == list(ROW)


def test_intervals_hold_the_metrics_that_are_defined():
    record = Record.read(ROW, "a record")
    assert record.intervals == {"auc": Interval(0.8, 0.7, 0.9), "dice": Interval(1.0)}


def test_settings_in_words_are_the_same_from_a_mapping_and_from_words():
    assert Record.read(ROW, "a record").settings_text == "features both, precision fp32"
    assert settings_text("features both") == "features both" and settings_text(None) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": ""}, "has no 'model'"),
        ({"task": 3}, "has no 'task'"),
        ({"metrics": [1]}, "has no metrics"),
        ({"metrics": {"auc": {"value": float("inf")}}}, "'auc' has no finite value"),
        ({"metrics": {"auc": {"low": 0.1}}}, "'auc' has no finite value"),
    ],
)
def test_what_is_no_record_is_refused_with_its_place_and_a_remedy(change, reason):
    with pytest.raises(UserError, match=f"^results.json: record 3.*{reason}; make it again$"):
        Record.read({**ROW, **change}, "results.json: record 3", "make it again")
    with pytest.raises(UserError, match="record 3 is not an object"):
        Record.read([], "record 3")
