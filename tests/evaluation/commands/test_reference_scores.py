"""Thresholds, point values, resamples and intervals of the published evaluation, from its own code's numbers."""

import json

import numpy as np
import pytest

from evaluation.commands.score import main
from evaluation.statistics import bootstrap, metrics, undefined
from evaluation.statistics.split import checked_split
from evaluation.statistics.thresholds import choose_thresholds


def score_cases(folder):
    """Every .npz of scores with a .json of results beside it."""
    pairs = [(path, path.with_suffix(".json")) for path in sorted(folder.glob("*.npz"))]
    return [(path, json.loads(beside.read_text())) for path, beside in pairs if beside.exists()]


@pytest.fixture
def cases(reference_dir):
    found = [(path, result) for path, result in score_cases(reference_dir) if "task" in result]
    assert found, f"no score references in {reference_dir}"
    return found


def reported(entry):
    """Mean and interval of a metric in the output of `biovfm score`."""
    return [entry[key] for key in ("mean", "low", "high")]


def test_reference_thresholds_and_point_values(cases):
    for path, expected in cases:
        held = np.load(path, allow_pickle=False)
        thresholds = choose_thresholds(checked_split(expected["task"], held["val_labels"], held["val_scores"]))
        np.testing.assert_allclose(thresholds, expected["thresholds"], rtol=0, atol=1e-9, err_msg=path.name)
        for split in ("test", "val"):
            point = expected.get(f"{split}_point", {})
            found = undefined.point_metrics(
                checked_split(expected["task"], held[f"{split}_labels"], held[f"{split}_scores"]).decided_at(
                    thresholds
                )
            )
            assert set(point) <= set(found)
            for name, value in point.items():
                if value is None or np.isnan(value):
                    assert found[name] is None, f"{path.name} {split} {name}"
                else:
                    assert found[name] == pytest.approx(value, rel=0, abs=1e-9), f"{path.name} {split} {name}"


def test_reference_first_resamples(cases):
    for path, expected in cases:
        held = np.load(path, allow_pickle=False)
        split = checked_split(expected["task"], held["test_labels"], held["test_scores"])
        scorer = metrics.Scorer(split.decided_at(expected["thresholds"]))
        rows = expected["bootstrap_first_five"]
        drawn = bootstrap.resampled_metrics(scorer, bootstrap.Resampler(split.size), len(rows))
        for number, row in enumerate(rows):
            for name, value in row.items():
                assert drawn[name][number] == pytest.approx(value, abs=1e-9, nan_ok=True), (
                    f"{path.name} {number} {name}"
                )


def test_reference_intervals_through_the_command(cases, tmp_path, capsys):
    for path, expected in cases:
        out = tmp_path / f"{path.stem}.json"
        words = [str(path), "--task", expected["task"], "--protocol", "biovfm", "--json", str(out)]
        assert main([*words, "--resamples", str(expected["n_resamples"])]) == 0
        written = json.loads(out.read_text())
        assert list(written["metrics"]) == list(metrics.names())
        for name, ends in expected["bootstrap_ci"].items():
            # Undefined metrics are null in our JSON, and null or NaN in a reference's.
            found, wanted = (np.array(held, float) for held in (reported(written["metrics"][name]), ends))
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4, err_msg=f"{path.name} {name}")
    assert "95 % interval" in capsys.readouterr().out
