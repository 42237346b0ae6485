"""The numbers of tables of scores."""

from biovfm_hf.results.record import Record
from evaluation.reproduce.scores import metric_gap


def test_a_missing_metric_is_undefined_only_if_its_record_says_so():
    record = Record("m", "r", "t", metrics={"auc": {"value": 0.5}}, undefined={"mcc": "one class has no case"})
    gaps = [metric_gap(record, name) for name in ("auc", "mcc", "added_later")]
    assert gaps == ["", "undefined: one class has no case", "not recorded"]
    assert metric_gap(Record("m", "r", "t"), "auc") == "not recorded"
