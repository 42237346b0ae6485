"""Draws one page of pictures: similarity of layers, and every measure by depth, for all models side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...pictures.figure import COLOURS, new_figure, save_figure
from .analysis import LayerAnalysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = {
    "linear": "linear probe, AUC",
    "knn": "kNN probe, AUC",
    "rankme": "RankMe",
    "two_nn": "dimension, TwoNN",
    "attention_distance": "attention distance, px",
    "attention_nmi": "attention NMI",
    "log_amplitude": "highest frequency, log",
    "token_cosine": "cosine between tokens",
}
COLUMNS = 4


def draw_page(path: Path, analysis: LayerAnalysis) -> None:
    """Write the page as PNG, with a description beside it."""
    curves = {name: title for name, title in CURVES.items() if any(row_value(row, name) for row in analysis.rows)}
    maps = list(analysis.cka)
    map_lines, curve_lines = (-(-len(items) // COLUMNS) for items in (maps, curves))
    figure = new_figure(3.2 * COLUMNS, 2.9 * (map_lines + curve_lines))
    grid = figure.add_gridspec(map_lines + curve_lines, COLUMNS)
    for number, pair in enumerate(maps):
        axes = figure.add_subplot(grid[number // COLUMNS, number % COLUMNS])
        _draw_map(axes, analysis.cka[pair], *pair)
    for number, (name, title) in enumerate(curves.items()):
        axes = figure.add_subplot(grid[map_lines + number // COLUMNS, number % COLUMNS])
        _draw_curves(axes, analysis, name, title)
        if number == 0:
            axes.legend(fontsize=6)
    save_figure(figure, path, page_text(analysis))


def _draw_map(axes: "Axes", values: np.ndarray, a: str, b: str) -> None:
    axes.imshow(values, origin="lower", vmin=0, vmax=1, cmap="viridis", extent=(0.5, values.shape[1] + 0.5,
                0.5, values.shape[0] + 0.5), aspect="auto")  # fmt: skip
    axes.set_title("CKA, 0 dark to 1 bright" if a == b else "CKA between models", fontsize=8)
    axes.set_ylabel(f"{a}, layer", fontsize=7)
    axes.set_xlabel(f"{b}, layer", fontsize=7)
    axes.tick_params(labelsize=6)


def _draw_curves(axes: "Axes", analysis: LayerAnalysis, name: str, title: str) -> None:
    models = list(analysis.amplitudes)
    for number, model in enumerate(models):
        rows = [row for row in analysis.of_model(model) if row_value(row, name) is not None]
        values = np.array([row_value(row, name) for row in rows], np.float64)
        depths = [row["depth"] for row in rows]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(depths, values, marker="o", markersize=2.5, linewidth=1, label=model, color=colour)
        ends = [row[name]["auc"] for row in rows if isinstance(row.get(name), dict)]
        if ends and all(end["low"] is not None for end in ends):
            low, high = ([end[side] for end in ends] for side in ("low", "high"))
            axes.fill_between(depths, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("depth, first block to last", fontsize=7)
    axes.tick_params(labelsize=6)


def row_value(row: dict[str, Any], name: str) -> float | None:
    """A measure of a layer: a number, the AUC of a probe, or None if the layer lacks it."""
    value = row.get(name)
    return value["auc"]["value"] if isinstance(value, dict) else value


def page_text(analysis: LayerAnalysis) -> str:
    """A description of the page: each model's best layer by probe, and the similarity of the last layers."""
    lines = [f"Layers of {', '.join(analysis.amplitudes)} by depth, with maps of debiased CKA."]
    for model in analysis.amplitudes:
        rows = [row for row in analysis.of_model(model) if row_value(row, "linear") is not None]
        if rows:
            best = max(rows, key=lambda row: row_value(row, "linear") or 0)
            entry = best["linear"]["auc"]
            lines.append(
                f"{model}: the linear probe is best at layer {best['layer']} of {len(rows)}, AUC {entry['value']:.4f}."
            )
    for (a, b), end in analysis.ends.items():
        lines.append(f"Last layers of {a} and {b}: CKA {end['value']:.3f} ({end['low']:.3f}, {end['high']:.3f}).")
    return "\n".join(lines)
