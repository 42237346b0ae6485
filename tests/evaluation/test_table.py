"""What stands in the tables of a results folder."""

import csv
import io

import pytest

from evaluation.table import latex, long_csv, markdown
from evaluation.tasks import GROUPS


def results(tasks=("t",), method="linear", protocol="fast", values=(0.8,), settings=({},), **further):
    """One record per task, and per value with its settings."""
    entries = ({"auc": {"value": value, "low": value - 0.1, "high": value + 0.1}} for value in values)
    named = dict(model="m", revision="r", method=method, protocol=protocol, seed=0, n_train=9, n_test=9)
    return [
        {**named, "task": task, "settings": held, "metrics": entry, "primary": "auc", "undefined": {}, **further}
        for entry, held in zip(entries, settings, strict=True)
        for task in tasks
    ]


@pytest.mark.parametrize(
    ("method", "protocol", "beside"),
    [("linear", "biovfm", True), ("linear", "fast", False), ("knn", "biovfm", False), ("fewshot-16", "biovfm", False)],
)
def test_published_rows_stand_beside_what_they_are_of(method, protocol, beside):
    records = results(GROUPS["medmnist"], method, protocol)
    for text in (markdown(records, []), latex(records), long_csv(records, records)):
        assert ("RAD-DINO (published)" in text) == beside
    assert "(published)" not in markdown(results(GROUPS["medmnist"][1:], "linear", "biovfm"), [])
