"""Errors on corrupted images: those of medmnistc's Evaluator."""

import json

import numpy as np
import pytest

from evaluation.statistics.bootstrap import Resampling
from evaluation.statistics.robustness import Baseline, robustness
from evaluation.statistics.split import checked_split
from evaluation.tasks.corruptions.benchmark import benchmarks


def test_reference_errors(reference_dir):
    paths = sorted(reference_dir.glob("medmnistc_eval_*.json"))
    assert paths, f"no summaries of medmnistc in {reference_dir}"
    for path in paths:
        with np.load(path.with_suffix(".npz")) as arrays:
            for dataset, expected in json.loads(path.read_text()).items():
                _check(dataset, expected, {name.split(".", 1)[1]: arrays[name] for name in arrays.files
                                           if name.startswith(f"{dataset}.")})  # fmt: skip


def _check(dataset, expected, arrays):
    thresholds = np.atleast_1d(0.5 if expected["threshold"] is None else expected["threshold"])

    def split(scores):
        return checked_split(expected["task"], arrays["labels"], scores).decided_at(thresholds)

    benchmark = benchmarks()[dataset]
    corrupted = {name: [split(part) for part in np.split(arrays[name], 5)] for name in expected["raw_scores"]}
    found = robustness(
        split(arrays["clean"]), corrupted, Baseline(benchmark.clean, benchmark.alexnet), Resampling("fast", 20)
    )
    for ours, theirs in (("clean_error", "clean_score"), ("be", "be"), ("rbe", "rbe")):
        assert found[ours]["value"] == pytest.approx(expected["metrics"][theirs], abs=1e-12), (dataset, ours)
        assert found[ours]["low"] <= found[ours]["high"]
    for ours, theirs in (("error", "raw_scores"), ("be", "be_scores"), ("rbe", "rbe_scores")):
        for name, value in expected[theirs].items():
            assert found["corruptions"][name][ours]["value"] == pytest.approx(value, abs=1e-12), (dataset, name)
