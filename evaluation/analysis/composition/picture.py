"""Pictures of a recommended mixture: a triangle for three groups, otherwise a line for each run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...pictures.figure import COLOURS, new_figure, save_figure
from .designs import within_limits
from .recommendation import Recommendation, gain_text, recommendation_lines
from .runs import MixtureRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = 60  # grid steps along each side of the triangle
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])


def draw_mixture(path: Path, runs: MixtureRuns, recommendation: Recommendation, title: str) -> None:
    """Write the picture as PNG, with a description beside it."""
    figure = new_figure(7.2, 4.6)
    axes = figure.subplots()
    low, high = runs.scores.min(), runs.scores.max()
    if len(runs.groups) == 3:
        drawn = _draw_triangle(axes, runs, recommendation, low, high)
    else:
        drawn = _draw_lines(axes, runs, recommendation, low, high)
    figure.colorbar(drawn, ax=axes, label="score", shrink=0.85)
    report = recommendation.report
    axes.set_title(f"{title}: {report['chosen']} response, {gain_text(report)}", fontsize=8)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.08), ncols=3, frameon=False)
    save_figure(figure, path, "\n".join([f"Mixtures of {', '.join(runs.groups)}, {title}.",
                                         *recommendation_lines(report)]))  # fmt: skip


def _draw_triangle(axes: "Axes", runs: MixtureRuns, recommendation: Recommendation, low: float, high: float) -> Any:
    """The response over the triangle, the runs on it, and the best mixture of each resample."""
    grid = np.array([(i, j, STEPS - i - j) for i in range(STEPS + 1) for j in range(STEPS + 1 - i)]) / STEPS
    reachable = np.abs(within_limits(grid, runs.limits) - grid).sum(axis=1) < 1e-9
    surface = np.where(reachable, -recommendation.response(grid), np.nan)
    places = grid @ CORNERS
    x, y = places.T
    axes.scatter(x, y, c=surface, s=26, marker="h", vmin=low, vmax=high, cmap="viridis", linewidths=0, alpha=0.55)
    x, y = (recommendation.optima @ CORNERS).T
    axes.scatter(x, y, s=7, color="white", edgecolor=COLOURS[1], linewidth=0.6,
                 label="best of a resample")  # fmt: skip
    drawn = _scatter_runs(axes, runs, low, high)
    best = np.array([share["value"] for share in recommendation.report["shares"].values()])
    axes.plot(*(best @ CORNERS), marker="*", markersize=16, color=COLOURS[1], markeredgecolor="white",
              linestyle="none", label="recommended")  # fmt: skip
    for name, corner, shift in zip(runs.groups, CORNERS, ((-6, -12), (6, -12), (0, 8)), strict=True):
        axes.annotate(name, corner, xytext=shift, textcoords="offset points", ha="center", fontsize=9)
    axes.plot(*np.vstack([CORNERS, CORNERS[:1]]).T, color="black", linewidth=0.8)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return drawn


def _scatter_runs(axes: "Axes", runs: MixtureRuns, low: float, high: float) -> Any:
    drawn = None
    for mask, marker, label in ((~runs.held_out, "o", "run"), (runs.held_out, "s", "held out")):
        x, y = (runs.shares[mask] @ CORNERS).T
        drawn = axes.scatter(x, y, c=runs.scores[mask], s=46, marker=marker, vmin=low, vmax=high, cmap="viridis",
                             edgecolor="black", linewidth=0.8, label=label)  # fmt: skip
    return drawn


def _draw_lines(axes: "Axes", runs: MixtureRuns, recommendation: Recommendation, low: float, high: float) -> Any:
    """One line per run over its shares, coloured by score, and the recommended shares with their intervals."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(low, high), "viridis")
    places = np.arange(len(runs.groups))
    for row in np.argsort(runs.scores):
        line = ":" if runs.held_out[row] else "-"
        axes.plot(places, runs.shares[row], line, color=colours.to_rgba(runs.scores[row]), linewidth=1.2, alpha=0.8)
    shares = list(recommendation.report["shares"].values())
    values = np.array([share["value"] for share in shares])
    reach = np.abs(np.array([[share["low"] for share in shares], [share["high"] for share in shares]]) - values)
    axes.errorbar(places, values, yerr=reach, fmt="*-", markersize=13, linewidth=2, color=COLOURS[1], capsize=3,
                  label="recommended, 95 %")  # fmt: skip
    axes.plot([], [], "k-", label="run")
    axes.plot([], [], "k:", label="held out")
    axes.plot(places, runs.limits, "k_", markersize=22, label="most by epochs")
    axes.set_xticks(places, runs.groups, fontsize=8)
    axes.set_ylabel("share of images seen")
    axes.set_ylim(-0.02, 1.02)
    return colours
