"""Scaling by depth: power laws of the layers' probes and measures against model size, by family."""

from pathlib import Path
from typing import Any

import numpy as np

from ...pictures.figure import COLOURS, new_figure, save_figure
from ..layers.page import CURVES, row_value
from .power_law import fit_power_law
from .tables import write_rows

DEPTHS = np.linspace(0.1, 1, 10)  # fractions of the encoder at which models with different depths are compared
COLUMNS = ("family", "measure", "depth", "a", "low", "high", "smallest", "largest", "sizes")
STATED = ("linear", "knn")  # measures whose steepest depth is stated in words

Row = dict[str, Any]


def layer_slopes(rows: list[Row], sizes: dict[str, tuple[str, float]]) -> list[Row]:
    """Fit measure = e^b size^a at ten depths.

    Args:
        rows: rows of `layers.json`, one per model and layer.
        sizes: {model: (family, size)}.

    Returns:
        Rows {"family", "measure", "depth", "a", "low", "high", "smallest", "largest", "sizes"} for every measure above
        0 that at least two sizes of the family have. `low` and `high` are Student's 95 % interval of the slope a, None
        with two sizes; `smallest` and `largest` are the measure of the smallest and the largest model. Between two
        layers, the measure is interpolated linearly.
    """
    slopes = []
    families = list(dict.fromkeys(family for family, _ in sizes.values()))
    for family in families:
        models = sorted((name for name, (own, _) in sizes.items() if own == family), key=lambda name: sizes[name][1])
        x = np.array([sizes[name][1] for name in models])
        for measure in CURVES:
            curves = [_curve(rows, name, measure) for name in models]
            if len(set(x)) < 2 or any(curve is None for curve in curves):
                continue
            table = np.stack([curve for curve in curves if curve is not None])  # (models, depths)
            slopes += [_slope(family, measure, depth, x, table[:, k]) for k, depth in enumerate(DEPTHS)
                      if (table[:, k] > 0).all()]  # fmt: skip
    return slopes


def _curve(rows: list[Row], model: str, measure: str) -> np.ndarray | None:
    """A measure of a model at `DEPTHS`; None if a layer lacks it."""
    own_rows = [row for row in rows if row["model"] == model]
    values = [row_value(row, measure) for row in own_rows]
    if not own_rows or any(value is None for value in values):
        return None
    return np.interp(DEPTHS, [row["depth"] for row in own_rows], np.array(values, np.float64))


def _slope(family: str, measure: str, depth: float, x: np.ndarray, y: np.ndarray) -> Row:
    law = fit_power_law(x, y, resamples=0)
    ends = {name: None if np.isnan(end) else end for name, end in (("low", law.a_low), ("high", law.a_high))}
    return {"family": family, "measure": measure, "depth": round(float(depth), 3), "a": law.a, **ends,
            "smallest": float(y[0]), "largest": float(y[-1]), "sizes": len(x)}  # fmt: skip


def write_layer_slopes(out: Path, rows: list[Row], sizes: dict[str, tuple[str, float]]) -> list[str]:
    """Write `slopes.csv` and `slopes.png` to `out`. Returns their content as lines of text."""
    slopes = layer_slopes(rows, sizes)
    write_rows(out / "slopes.csv", COLUMNS, slopes)
    lines = slope_lines(slopes)
    if slopes:
        _draw(out / "slopes.png", slopes, "\n".join(lines))
    return lines


def slope_lines(slopes: list[Row]) -> list[str]:
    """Sentences that name the depth at which each family's probes gain most from size."""
    lines = []
    for family in dict.fromkeys(row["family"] for row in slopes):
        for measure in STATED:
            own_slopes = [row for row in slopes if row["family"] == family and row["measure"] == measure]
            if not own_slopes:
                continue
            best = max(own_slopes, key=lambda row: row["a"])
            end = "" if best["low"] is None else f" ({best['low']:.4f}, {best['high']:.4f})"
            verdict = "" if best["low"] is not None and best["low"] > 0 else ", not significant"
            lines.append(f"{family}, {CURVES[measure]}: gains most at depth {best['depth']:.1f}, slope "
                         f"{best['a']:.4f}{end}{verdict}; at the end {own_slopes[-1]['a']:.4f}")  # fmt: skip
    return lines


def _draw(path: Path, slopes: list[Row], description: str) -> None:
    measures = [name for name in CURVES if any(row["measure"] == name for row in slopes)]
    columns = min(4, len(measures))
    lines = -(-len(measures) // columns)
    figure = new_figure(3.2 * columns, 2.7 * lines + 0.3)
    grid = np.array(figure.subplots(lines, columns, squeeze=False)).reshape(-1)
    families = list(dict.fromkeys(row["family"] for row in slopes))
    for axes, measure in zip(grid, measures, strict=False):
        for number, family in enumerate(families):
            own_slopes = [row for row in slopes if row["family"] == family and row["measure"] == measure]
            _draw_family(axes, own_slopes, family, COLOURS[number % len(COLOURS)])
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_title(f"slope of {CURVES[measure]}", fontsize=8)
        axes.set_xlabel("depth, first block to last", fontsize=7)
        axes.tick_params(labelsize=6)
    for axes in grid[len(measures) :]:
        axes.set_visible(False)
    grid[0].legend(fontsize=6)
    save_figure(figure, path, description)


def _draw_family(axes: Any, rows: list[Row], family: str, colour: str) -> None:
    depths = [row["depth"] for row in rows]
    axes.plot(depths, [row["a"] for row in rows], marker="o", markersize=2.5, linewidth=1, label=family, color=colour)
    if rows and all(row["low"] is not None for row in rows):
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        middle = np.array([row["a"] for row in rows])
        axes.fill_between(depths, low, high, color=colour, alpha=0.12, linewidth=0)
        reach = 4 * max(float(np.ptp(middle)), float(np.abs(middle).max()), 1e-6)  # three sizes give huge intervals
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, middle.min() - reach), min(top, middle.max() + reach))
