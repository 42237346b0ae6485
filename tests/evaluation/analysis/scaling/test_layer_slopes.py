"""Slopes at each depth: known power laws are recovered, models of different depths compared, and the text is right."""

import numpy as np
import pytest

from evaluation.analysis.scaling.layer_slopes import DEPTHS, layer_slopes, slope_lines, write_layer_slopes

SIZES = {f"{family}{size}": (family, float(size)) for family in ("D", "M") for size in (1, 4, 16)}


def rows(layers=4):
    """The linear probe grows as size^(depth / 10) in M, and not at all in D; only M has RankMe."""
    made = []
    for model, (family, size) in SIZES.items():
        count = layers if size < 16 else 2 * layers
        for layer in range(1, count + 1):
            depth = layer / count
            value = 0.5 * size ** (depth / 10 if family == "M" else 0)
            row = {"model": model, "layer": layer, "depth": depth, "linear": {"auc": {"value": value}}}
            made.append({**row, "rankme": 3.0 * size if family == "M" else None})
    return made


def test_slopes_are_those_of_the_power_law():
    slopes = layer_slopes(rows(10), SIZES)
    linear = {(row["family"], row["depth"]): row for row in slopes if row["measure"] == "linear"}
    assert len(linear) == 2 * len(DEPTHS)
    for (family, depth), row in linear.items():
        assert row["a"] == pytest.approx(depth / 10 if family == "M" else 0, abs=2e-3)
        assert row["low"] <= row["a"] <= row["high"] and row["sizes"] == 3
    ranks = [row for row in slopes if row["measure"] == "rankme"]
    assert {row["family"] for row in ranks} == {"M"}
    np.testing.assert_allclose([row["a"] for row in ranks], 1)


def test_words_name_the_depth_that_gains_most(tmp_path):
    lines = write_layer_slopes(tmp_path, rows(), SIZES)
    assert any(line.startswith("M, linear probe, AUC: gains most at depth 1.0") for line in lines)
    assert (tmp_path / "slopes.png").is_file() and (tmp_path / "slopes.csv").read_text().count("linear") == 20
    two = {name: entry for name, entry in SIZES.items() if entry[1] < 16}
    assert all("not significant" in line for line in slope_lines(layer_slopes(rows(), two)))


def test_one_size_has_no_slope(tmp_path):
    one = {name: entry for name, entry in SIZES.items() if entry[1] == 1}
    assert layer_slopes(rows(), one) == [] and write_layer_slopes(tmp_path, rows(), one) == []
    assert not (tmp_path / "slopes.png").exists()
