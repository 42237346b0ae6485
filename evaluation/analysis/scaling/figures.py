"""Draws the study's pictures: PNG for the screen, SVG and PDF for a paper, and a text description of each.

The first seven colours are from Okabe and Ito (2008) and are distinct with any colour vision. In addition, every
family has its own marker.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from biovfm_hf.writing.files import atomic_path, write_text

from ...pictures.figure import COLOURS
from .analysis import Fit, ScalingAnalysis
from .rows import predicted_tasks

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d", "*")  # one more than colours: 156 pairs differ
GREY = "#767676"
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#E3E3E3", "grid.linewidth": 0.6, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "biovfm-hf", "pdf.fonttype": 42, "figure.constrained_layout.use": True,
}  # fmt: skip
PROPERTY_NAMES = {"num_samples": "samples", "num_classes": "classes", "dbi": "Davies-\nBouldin", "gzip": "gzip\nratio",
                  "entropy": "entropy"}  # fmt: skip
NICE_NAMES = ("PathMNIST", "ChestMNIST", "DermaMNIST", "OctMNIST", "PneumoniaMNIST", "RetinaMNIST", "BreastMNIST",
              "BloodMNIST", "TissueMNIST", "OrganAMNIST", "OrganCMNIST", "OrganSMNIST")  # fmt: skip
MAX_GAP_PANELS = 12
NAMES = ("summary", "mean_scaling", "task_scaling", "slopes", "correlations", "predictions", "gaps", "data_scaling")
Drawing = tuple[str, Figure, str]


def write_figures(analysis: ScalingAnalysis, out: Path, with_published: bool = False) -> list[str]:
    """Draw the analysis into `out` as NAME.png, .svg, .pdf and .txt (alternative text).

    Figures of an earlier analysis are removed. Returns the names of the drawn figures.
    """
    names = []
    for name, kind in product(NAMES, ("png", "svg", "pdf", "txt")):
        (out / f"{name}.{kind}").unlink(missing_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, figure, alt in _drawings(analysis, with_published):
            for kind in ("png", "svg", "pdf"):
                stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
                with atomic_path(out / f"{name}.{kind}") as path:
                    figure.savefig(path, format=kind, dpi=200, metadata=stamp)
                figure.set_layout_engine("none")  # the other formats keep this layout
            write_text(out / f"{name}.txt", alt + "\n")
            names.append(name)
    return names


def _drawings(analysis: ScalingAnalysis, with_published: bool) -> Iterator[Drawing]:
    yield _summary(analysis, with_published)
    if analysis.means:
        yield _mean(analysis, with_published)
        yield _tasks(analysis)
    yield _slopes(analysis, with_published)
    if analysis.correlations:
        yield _correlations(analysis, with_published)
    if analysis.predictions:
        yield _predictions(analysis)
    if analysis.gaps:
        yield _gaps(analysis)
    if analysis.subsets:
        yield _subsets(analysis, with_published)


def _legend(figure: Figure, means: dict[str, Fit] | None = None, place: Literal["lower", "upper"] = "lower") -> None:
    """One legend below or above all panels, which keep their size; adds the slopes of `means` if given."""
    handles_of: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles_of.setdefault(label, handle)
    labels = [
        f"{name} (mean: a = {means[name].law.a:.4f})" if means and name in means else name for name in handles_of
    ]
    width, height = figure.get_size_inches()
    columns = max(1, min(len(handles_of), int(width / (0.065 * max(map(len, labels)) + 0.5))))
    figure.set_size_inches(width, height + 0.18 * math.ceil(len(handles_of) / columns))
    figure.legend(
        list(handles_of.values()),
        labels,
        loc="outside upper center" if place == "upper" else "outside lower center",
        ncols=columns,
    )


def _look(analysis: ScalingAnalysis, series: str) -> tuple[str, str]:
    """Colour and marker of a series, the same in all pictures."""
    order = [*analysis.slopes, *analysis.references]
    place = order.index(series)
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def nice(task: str) -> str:
    """A task's name as readers know it."""
    return next((name for name in NICE_NAMES if name.lower() == task.lower()), task)


def draw_mean(axes: Axes, analysis: ScalingAnalysis, with_published: bool = False) -> None:
    """Mean score against size, with the fitted power laws (the paper's figure 2a)."""
    sizes = [x for fit in analysis.means.values() for x in fit.x]
    for series, fit in analysis.means.items():
        _draw_fit(axes, analysis, series, fit)
    for series, of_tasks in analysis.references.items():
        if set(of_tasks) != set(analysis.tasks):
            continue  # a mean over fewer tasks is not comparable
        x = next(iter(of_tasks.values()))[0]
        colour, marker = _look(analysis, series)
        score = float(np.mean([score for _, score in of_tasks.values()]))
        axes.plot([x], [score], linestyle="", marker=marker, color=colour, markersize=8, label=series)
    if with_published:
        _draw_published_curves(axes, analysis)
        sizes += [x for points in analysis.published.mean_curves.values() for x, _ in points]
    _finish_scaling(axes, analysis.axis_label, sizes)
    axes.set_ylabel(f"Mean {analysis.metric} (%)")


def _mean(analysis: ScalingAnalysis, with_published: bool) -> Drawing:
    figure = Figure(figsize=(3.6, 2.5))
    draw_mean(figure.subplots(), analysis, with_published)
    _legend(figure, analysis.means)
    return "mean_scaling", figure, _mean_text(analysis)


def _draw_published_curves(axes: Axes, analysis: ScalingAnalysis) -> None:
    """The paper's mean curves: hollow, in the colour of the family with the same name, otherwise grey."""
    for number, (family, points) in enumerate(analysis.published.mean_curves.items()):
        known = family in analysis.slopes or family in analysis.references
        colour, marker = _look(analysis, family) if known else (GREY, MARKERS[number])
        axes.plot(*np.array(points).T, color=colour, linewidth=0.8, linestyle=":", marker=marker, markersize=4,
                  markerfacecolor="white", label=f"{family}, published")  # fmt: skip


def _draw_published(axes: Axes, analysis: ScalingAnalysis, series: str, x: float, y: float) -> None:
    """A number from the paper beside the family's own: same colour and marker, but hollow."""
    colour, marker = _look(analysis, series)
    axes.plot([x], [y], linestyle="", marker=marker, color=colour, markersize=4, markerfacecolor="white",
              label=f"{series}, published")  # fmt: skip


def _draw_fit(axes: Axes, analysis: ScalingAnalysis, series: str, fit: Fit) -> None:
    colour, marker = _look(analysis, series)
    axes.plot(fit.x, fit.y, linestyle="", marker=marker, color=colour, markersize=5)
    line = np.geomspace(fit.x.min(), fit.x.max(), 50)
    axes.plot(line, fit.law(line), linestyle="--", linewidth=1.1, color=colour)
    axes.plot([], [], linestyle="--", marker=marker, color=colour, label=series)


def _finish_scaling(axes: Axes, label: str, sizes: list[float]) -> None:
    axes.set_xscale("log")
    ticks = _spaced(sorted(set(sizes)))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _three_digits(value)))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_xlabel(label)


def _three_digits(value: float) -> str:
    return f"{float(f'{value:.3g}'):g}"  # 1520, and not 1.52e+03


def _spaced(values: list[float]) -> list[float]:
    """The sorted values whose labels do not overlap on a log axis."""
    least = (math.log(values[-1]) - math.log(values[0])) / 12 if len(values) > 1 else 0
    kept = values[:1]
    for value in values[1:]:
        if math.log(value) - math.log(kept[-1]) >= least:
            kept.append(value)
    return kept


def _tasks(analysis: ScalingAnalysis) -> Drawing:
    """One panel per task (the paper's figure 3)."""
    tasks = [task for task in analysis.tasks if any(task in fits for fits in analysis.fits.values())]
    columns = min(4, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    lines = math.ceil(len(analysis.fits) / 3)  # lines of slopes above a panel, three slopes per line
    figure = Figure(figsize=(2.1 * columns + 0.3, (1.65 + 0.12 * lines) * rows + 0.4))
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
    sizes = [x for fits in analysis.fits.values() for fit in fits.values() for x in fit.x]
    for axes, task in zip(grid, tasks, strict=False):
        fitted = {series: fits[task] for series, fits in analysis.fits.items() if task in fits}
        for series, fit in fitted.items():
            _draw_fit(axes, analysis, series, fit)
        for series, points in analysis.references.items():
            if task in points:
                colour, marker = _look(analysis, series)
                axes.plot(*points[task], linestyle="", marker=marker, color=colour, markersize=7, label=series)
        _finish_scaling(axes, "", sizes)
        axes.margins(y=0.1)
        axes.set_title(nice(task), pad=3 + 9 * lines)
        for place, (series, fit) in enumerate(fitted.items()):
            in_line = min(3, len(fitted) - place // 3 * 3)
            at, above = 0.5 + (place % 3 - (in_line - 1) / 2) * 0.34, 3 + 9 * (lines - 1 - place // 3)
            colour = _look(analysis, series)[0]
            axes.annotate(f"{fit.law.a:.4f}", (at, 1), (0, above), xycoords="axes fraction",
                          textcoords="offset points", color=colour, fontsize=7, ha="center")  # fmt: skip
    for axes in grid[len(tasks) :]:
        axes.set_visible(False)
    figure.supxlabel(analysis.axis_label, fontsize=9)
    figure.supylabel(f"{analysis.metric} (%)", fontsize=9)
    _legend(figure, place="upper")  # below is the label of the x axis
    text = (
        f"{analysis.metric} against model size on {len(tasks)} tasks, with fitted power laws; slopes above each panel."
    )
    return "task_scaling", figure, text


def draw_slopes(axes: Axes, analysis: ScalingAnalysis, with_published: bool = False) -> None:
    """Slopes of all series by task, steepest on top, with 95 % intervals (the paper's figures 4a and 4b)."""
    first = next(iter(analysis.slopes))
    tasks = sorted(analysis.tasks, key=lambda task: analysis.slopes[first].get(task, -math.inf))
    spread = 0.6 / max(1, len(analysis.slopes))
    printed = analysis.published.slopes if with_published else {}
    beside = [(series, task, printed[series][task.lower()]) for series, slopes in analysis.slopes.items()
              if series in printed for task in slopes if task.lower() in printed[series]]  # fmt: skip
    shown = [a for slopes in analysis.slopes.values() for a in slopes.values()]
    shown += [a for _, _, a in beside]
    offsets = {
        series: (number - (len(analysis.slopes) - 1) / 2) * -spread for number, series in enumerate(analysis.slopes)
    }
    for series, slopes in analysis.slopes.items():
        colour, marker = _look(analysis, series)
        for task, a in slopes.items():
            y = tasks.index(task) + offsets[series]
            fit = analysis.fits.get(series, {}).get(task)
            if fit and not math.isnan(fit.law.a_low):
                axes.plot([fit.law.a_low, fit.law.a_high], [y, y], color=colour, linewidth=1, alpha=0.5)
            axes.plot([a], [y], marker=marker, color=colour, markersize=5, linestyle="")
        axes.plot([], [], marker=marker, color=colour, linestyle="", label=series)
    for series, task, a in beside:
        _draw_published(axes, analysis, series, a, tasks.index(task) + offsets[series])
    axes.axvline(0, color=GREY, linewidth=0.8)
    margin = 1.2 * (max(*shown, 0) - min(*shown, 0)) or 1.0
    axes.set_xlim(min(*shown, 0) - margin / 2, max(*shown, 0) + margin / 2)
    axes.set_yticks(range(len(tasks)), [nice(task) for task in tasks])
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("Slope a, 95 % interval")


def _slopes(analysis: ScalingAnalysis, with_published: bool) -> Drawing:
    figure = Figure(figsize=(4.4, max(0.26, 0.1 * len(analysis.slopes)) * len(analysis.tasks) + 0.7))
    draw_slopes(figure.subplots(), analysis, with_published)
    _legend(figure)
    steepest = {series: max(slopes, key=lambda t: slopes[t]) for series, slopes in analysis.slopes.items() if slopes}
    text = "Slopes by task with 95 % intervals (cut at the frame). Steepest: " + "; ".join(
        f"{series} {nice(task)} {analysis.slopes[series][task]:.4f}" for series, task in steepest.items()
    )
    return "slopes", figure, text + "."


def _bars(analysis: ScalingAnalysis) -> int:
    return sum(map(len, analysis.correlations.values()))


def draw_correlations(axes: Axes, analysis: ScalingAnalysis, with_published: bool = False) -> None:
    """Pearson correlation of slope and property as bars, with Fisher intervals (the paper's figure 4c)."""
    printed = analysis.published.correlations if with_published else {}
    names = list(analysis.properties)
    width = 0.8 / max(1, len(analysis.correlations))
    for number, (series, coefficients) in enumerate(analysis.correlations.items()):
        colour, marker = _look(analysis, series)
        for place, name in enumerate(names):
            c = coefficients[name]
            x = place + (number - (len(analysis.correlations) - 1) / 2) * width
            axes.bar(x, c.pearson, width * 0.92, color=colour, alpha=0.55)
            if not math.isnan(c.low):
                axes.plot([x, x], [c.low, c.high], color="#222222", linewidth=0.9)
            axes.plot([x], [c.pearson], linestyle="", marker=marker, color=colour, markersize=4.5, label=series)
            if name in printed.get(series, {}):
                _draw_published(axes, analysis, series, x, printed[series][name])
    axes.axhline(0, color="#222222", linewidth=0.8)
    axes.set_ylim(-1, 1)
    axes.set_xticks(range(len(names)), [PROPERTY_NAMES[name] for name in names])
    axes.grid(visible=False, axis="x")
    counts = {c.n for coefficients in analysis.correlations.values() for c in coefficients.values()}
    axes.set_ylabel("Pearson r with slope" + (f" (n = {counts.pop()})" if len(counts) == 1 else ""))


def _correlations(analysis: ScalingAnalysis, with_published: bool) -> Drawing:
    figure = Figure(figsize=(max(3.6, 0.13 * _bars(analysis) + 1.0), 2.5))
    draw_correlations(figure.subplots(), analysis, with_published)
    _legend(figure)
    return "correlations", figure, _correlation_text(analysis)


def _flat(name: str) -> str:
    return PROPERTY_NAMES[name].replace("-\n", "-").replace("\n", " ")


def _correlation_text(analysis: ScalingAnalysis) -> str:
    each = [f"{series}, {_flat(name)}: {c.pearson:.2f} ({c.low:.2f} to {c.high:.2f})"
            for series, coefficients in analysis.correlations.items() for name, c in coefficients.items()]  # fmt: skip
    return "Pearson correlation of scaling slope with task property, 95 % interval. " + "; ".join(each) + "."


def _mean_text(analysis: ScalingAnalysis) -> str:
    each = [
        f"{series} from {fit.y[0]:.2f} to {fit.y[-1]:.2f} %, slope {fit.law.a:.4f}"
        for series, fit in analysis.means.items()
    ]
    return f"Mean {analysis.metric} against model size with fitted power laws: " + "; ".join(each) + "."


def _summary(analysis: ScalingAnalysis, with_published: bool) -> Drawing:
    """One picture for a paper: mean curves, slopes and correlations, as far as there are any."""
    panels: list[tuple[float, Callable[[Axes], None]]] = []
    if analysis.means:
        panels.append((1.15, lambda axes: draw_mean(axes, analysis, with_published)))
    panels.append((1.15, lambda axes: draw_slopes(axes, analysis, with_published)))
    if analysis.correlations:
        panels.append(
            (
                max(0.26 * len(analysis.properties), 0.04 * _bars(analysis), 1.0),
                lambda axes: draw_correlations(axes, analysis, with_published),
            )
        )
    row = max(0.2, 0.1 * len(analysis.slopes))
    figure = Figure(figsize=(2.9 * sum(width for width, _ in panels), max(2.7, row * len(analysis.tasks) + 0.6)))
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=[width for width, _ in panels])[0]
    for letter, axes, (_, draw) in zip("abc", grid, panels, strict=False):
        draw(axes)
        axes.set_title(letter, loc="left", fontweight="bold")
    _legend(figure, analysis.means)
    text = "Summary of the scaling study. "
    return "summary", figure, text + (_mean_text(analysis) if analysis.means else "Slopes by task.")


def _predictions(analysis: ScalingAnalysis) -> Drawing:
    columns = min(3, len(analysis.predictions))
    rows = math.ceil(len(analysis.predictions) / columns)
    figure = Figure(figsize=(3.2 * columns + 0.2, 3.2 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes in grid[len(analysis.predictions) :]:
        axes.set_visible(False)
    for axes, (series, prediction) in zip(grid, analysis.predictions.items(), strict=False):
        colour, marker = _look(analysis, series)
        tasks = predicted_tasks(analysis, series)
        actual = np.array([analysis.slopes[series][task] for task in tasks])
        ends = [min(actual.min(), prediction.predicted.min()), max(actual.max(), prediction.predicted.max())]
        axes.plot(ends, ends, color=GREY, linewidth=0.8)
        axes.plot(actual, prediction.predicted, linestyle="", marker=marker, color=colour,
                  label=f"{series}, from properties")  # fmt: skip
        axes.plot(
            actual, prediction.baseline, linestyle="", marker="_", markersize=10, color="k", label="mean of others"
        )
        margin = 0.06 * float(np.ptp(actual)) or 0.01
        axes.set_xlim(actual.min() - margin, actual.max() + margin)
        axes.set_title(
            f"{series}: skill {prediction.skill:z.2f}\n(95 %: {prediction.low:z.2f} to {prediction.high:z.2f})"
        )
        axes.set_xlabel("Slope")
        axes.set_ylabel("Slope predicted from the other tasks")
        axes.xaxis.set_major_locator(MaxNLocator(5))
    _legend(figure)
    text = "Leave-one-task-out prediction of slopes. " + "; ".join(
        f"{s}: {p.statement}" for s, p in analysis.predictions.items()
    )
    return "predictions", figure, text + "."


def _gaps(analysis: ScalingAnalysis) -> Drawing:
    """Gaps between every two families that share sizes, by task and size; one panel per pair."""
    pairs = list(dict.fromkeys((gap.family_a, gap.family_b) for gap in analysis.gaps))
    tables = {pair: _gap_table(analysis, pair) for pair in pairs[:MAX_GAP_PANELS]}
    columns = min(3, len(tables))
    rows = math.ceil(len(tables) / columns)
    most_tasks, most_sizes = (max(len(parts[place]) for parts in tables.values()) for place in (0, 1))
    figure = Figure(figsize=((0.5 * most_sizes + 1.4) * columns + 1.0, (0.27 * most_tasks + 0.8) * rows + 0.3))
    grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    limit = max(*(float(np.nanmax(np.abs(table))) for _, _, table in tables.values()), 1e-9)
    for axes, ((a, b), (tasks, sizes, table)) in zip(grid, tables.items(), strict=False):
        image = axes.imshow(table, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
        for (row, column), value in np.ndenumerate(table):
            if not math.isnan(value):
                colour = "w" if abs(value) > 0.6 * limit else "k"
                axes.text(column, row, f"{value:+z.1f}", ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(len(sizes)), [_three_digits(x) for x in sizes])
        axes.set_yticks(range(len(tasks)), [nice(task) for task in tasks])
        axes.grid(visible=False)
        axes.set_title(f"{a}\nminus {b}")
    for axes in grid[len(tables) :]:
        axes.set_visible(False)
    figure.supxlabel(analysis.axis_label, fontsize=9)
    figure.colorbar(image, ax=grid.tolist(), label=f"{analysis.metric}, difference in points", shrink=0.9)
    sentences = "; ".join(f"{a} minus {b} {np.nanmean(table):+z.2f}" for (a, b), (_, _, table) in tables.items())
    rest = len(pairs) - len(tables)
    further = f" {rest} further pairs are in gaps.csv." if rest else ""
    return (
        "gaps",
        figure,
        f"Differences in {analysis.metric} by task and size, in points, mean over both: {sentences}.{further}",
    )


def _gap_table(analysis: ScalingAnalysis, pair: tuple[str, str]) -> tuple[list[str], list[float], np.ndarray]:
    """Tasks and sizes that two families share, and their gaps (tasks, sizes); NaN where there is none."""
    differences = {(gap.task, gap.x): gap.gap for gap in analysis.gaps if (gap.family_a, gap.family_b) == pair}
    tasks = [task for task in analysis.tasks if any(name == task for name, _ in differences)]
    sizes = sorted({x for _, x in differences})
    return tasks, sizes, np.array([[differences.get((task, x), math.nan) for x in sizes] for task in tasks])


def _subsets(analysis: ScalingAnalysis, with_published: bool) -> Drawing:
    """Mean score by pretraining data (the paper's figure 2b)."""
    means = {family: {name: float(np.mean(list(scores.values()))) for name, scores in scores_of.items()}
             for family, scores_of in analysis.subsets.items()}  # fmt: skip
    if with_published:
        means |= {f"{family}, ViT-L, published": scores_of for family, scores_of in analysis.published.subsets.items()}
    figure = Figure(figsize=(2.6 * len(means) + 0.6, 2.8))
    grid = figure.subplots(1, len(means), squeeze=False)[0]
    sentences = []
    for axes, (family, scores_of) in zip(grid, means.items(), strict=True):
        scores, names = list(scores_of.values()), list(scores_of)
        low = min(scores) - max(0.5, 2 * (max(scores) - min(scores)))
        fill = [
            COLOURS[place % len(COLOURS)] if family in analysis.subsets else "#BBBBBB"
            for place in range(len(scores_of))
        ]
        bars = axes.bar(range(len(scores_of)), [m - low for m in scores], bottom=low, width=0.6, color=fill)
        axes.bar_label(bars, [f"{m:.2f}" for m in scores], padding=2, fontsize=8)
        axes.set_xticks(range(len(scores_of)), names)
        axes.set_ylabel(f"Mean {analysis.metric} (%), axis cut")
        axes.set_title(family)
        axes.margins(y=0.15)
        axes.grid(visible=False, axis="x")
        sentences.append(f"{family}: " + ", ".join(f"{s} {m:.2f} %" for s, m in zip(names, scores, strict=True)))
    return "data_scaling", figure, f"Mean {analysis.metric} by pretraining data. " + "; ".join(sentences) + "."
