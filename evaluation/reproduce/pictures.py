"""Draws an item's numbers as in the papers: bars, curves, ranks, masks side by side, scaling curves."""

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.results.significance import mean_ranks, task_ranks

from ..analysis.scaling.analysis import analyse_scaling
from ..analysis.scaling.model_size import PAPER_AXIS, known_sizes
from ..analysis.scaling.tables import Point, Study, read_properties
from ..analysis.scaling_command import PropertiesOptions, measure_properties
from ..pictures.figure import new_figure, save_figure
from ..pictures.masks import mask_figure
from ..pictures.ranks import rank_plane
from ..pictures.scores import line_look
from ..results.records import read_scores
from ..results.table import metric_title
from ..tasks import Task
from ..tasks.samples import sample_rows
from .bench import Bench
from .numbers import Number, Numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Picture = Callable[[Numbers, list[str], Bench, Path], None]  # draws the columns of these panels to the item's folder


def bars(numbers: Numbers, panels: list[str], bench: Bench, folder: Path) -> None:
    """A group of bars per column, one bar with interval per row; the paper's numbers are hollow diamonds."""
    columns, rows = _columns(numbers, panels), list(numbers.recipe.rows)
    figure = new_figure(1.6 + max(0.9, 0.16 * len(rows)) * len(columns), 3.6 + 0.16 * len(rows))
    axes = figure.add_subplot()
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        colour, _ = line_look(number)
        for place, column in enumerate(columns):
            x = place + (number - (len(rows) - 1) / 2) * width
            cell = numbers.cells.get((row, column), Number())
            if cell.value is not None:
                axes.bar(x, cell.value, width * 0.9, color=colour, yerr=_reach(cell), ecolor="0.3", capsize=1.5)
            if cell.printed is not None:
                axes.plot(x, cell.printed.value, "D", color="0.2", markersize=4, markerfacecolor="none")
        axes.bar(0, 0, color=colour, label=row)
    axes.plot([], [], "D", color="0.2", markersize=4, markerfacecolor="none", label="printed in the paper")
    axes.set_xticks(range(len(columns)), [textwrap.fill(column, 14) for column in columns], fontsize=8)
    axes.set(ylabel=_metric(numbers, columns), ylim=_limits(numbers, columns))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=7, frameon=False, loc="outside lower center", ncols=3)
    save_figure(
        figure,
        folder / "bars.png",
        f"{numbers.recipe.title}: bars with 95 % intervals. {_description(numbers, columns)}",
    )


def curves(numbers: Numbers, panels: list[str], bench: Bench, folder: Path) -> None:
    """A plot per panel with a line per row over the panel's columns, with intervals."""
    figure = new_figure(4.6 * len(panels), 4.4)
    shown: list[str] = []
    for place, panel in enumerate(panels):
        columns = [name for name, own in numbers.recipe.panels.items() if own == panel]
        axes = figure.add_subplot(1, len(panels), place + 1)
        for number, row in enumerate(numbers.recipe.rows):
            _draw_curve(
                axes, row, [numbers.cells.get((row, column), Number()) for column in columns], line_look(number)
            )
        axes.set_xticks(range(len(columns)), [column.rpartition(", ")[2] for column in columns])
        axes.set(xlabel="training subjects (per class, of classification)", ylabel=_metric(numbers, columns))
        axes.set_title(panel, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        shown += columns
    _require(numbers, shown)
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    figure.legend(lines.values(), lines.keys(), fontsize=7, frameon=False, loc="outside lower center", ncols=4)
    description = f"{numbers.recipe.title}; dotted: printed in the paper. {_description(numbers, shown)}"
    save_figure(figure, folder / "curves.png", description)


def _draw_curve(axes: "Axes", row: str, cells: list[Number], look: tuple[str, str]) -> None:
    colour, style = look
    at = np.arange(len(cells))
    ours, low, high, printed = (
        np.array([np.nan if value is None else value for value in values], float)
        for values in zip(*((c.value, c.low, c.high, c.printed and c.printed.value) for c in cells), strict=True)
    )
    if np.isfinite(ours).any():
        axes.plot(at, ours, marker="o", markersize=4, color=colour, linestyle=style, label=row)
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    if np.isfinite(printed).any():
        label = f"{row}, printed"
        axes.plot(at, printed, ":D", markersize=4, markerfacecolor="white", color=colour, linewidth=1, label=label)


def ranks(numbers: Numbers, panels: list[str], bench: Bench, folder: Path) -> None:
    """Each model's rank over segmentation tasks (x) against its rank over classification tasks (y), as in figure 1.

    As in the study, the ranks on each task are averaged, and the averages are ranked.
    """
    classified, segmented = ([c for c, panel in numbers.recipe.panels.items() if panel == name] for name in panels)
    ours, printed = (_places(numbers, segmented, classified, printed) for printed in (False, True))
    if not ours:
        raise UserError("ranks need two models with every number")
    figure = rank_plane(ours, printed)
    listing = "; ".join(f"{row}: segmentation {at[0]:g}, classification {at[1]:g}" for row, at in ours.items())
    save_figure(figure, folder / "ranks.png", f"Ranks of the models, best at the upper right. {listing}.")


def _value(cell: Number, printed: bool) -> float | None:
    return cell.value if not printed else None if cell.printed is None else cell.printed.value


def _places(
    numbers: Numbers, segmented: list[str], classified: list[str], printed: bool
) -> dict[str, tuple[float, float]]:
    """The two ranks of each model by our or by the printed numbers, over the columns that all models have."""
    kinds = []
    values = {place: _value(cell, printed) for place, cell in numbers.cells.items()}
    rows = [row for row in numbers.recipe.rows if any(values[row, column] is not None for column in segmented)]
    for columns in (segmented, classified):
        table = [[values[row, column] for row in rows] for column in columns]
        whole = np.array([line for line in table if None not in line], float)
        if len(rows) < 2 or not len(whole):
            return {}
        kinds.append(task_ranks(-mean_ranks(whole)[None])[0])
    return {row: (float(across), float(up)) for row, across, up in zip(rows, *kinds, strict=True)}


def masks(numbers: Numbers, panels: list[str], bench: Bench, folder: Path) -> None:
    """A picture per column: test images, their true masks, and the masks of each row, one below the other."""
    drawn = 0
    for column in _columns(numbers, panels):
        cells = {row: numbers.cells[row, column] for row in numbers.recipe.rows}
        made = {row: cell for row, cell in cells.items() if cell.records}
        if not made:
            continue
        records = {row: cell.records[0][0] for row, cell in made.items()}
        task = bench.task(next(iter(records.values())).task, numbers.recipe)
        predicted = {row: read_scores(bench.out, record)["sample_masks"] for row, record in records.items()}
        images, truths = _sampled(task)
        title = f"{task.name}: image, truth, {', '.join(predicted)}"
        scores = "; ".join(f"{row} {cell.value:.3f}" for row, cell in made.items())
        description = f"{len(images)} test images of {task.name}, their true masks, and below them those of {scores}."
        figure = mask_figure(images, truths, predicted, task.num_outputs, title)
        save_figure(figure, folder / f"masks-{task.name}.png", description)
        drawn += 1
    if not drawn:
        raise UserError("no masks are there")


def _sampled(task: Task) -> tuple[list[np.ndarray], list[np.ndarray]]:
    split = task.splits["test"]
    assert split.masks is not None
    rows = [int(row) for row in sample_rows(len(split.images))]
    return [split.images[row] for row in rows], [split.masks[row] for row in rows]


def scaling(numbers: Numbers, panels: list[str], bench: Bench, folder: Path) -> None:
    """The scaling analysis of models with names FAMILY-SIZE: slopes, correlations and pictures, in scaling/."""
    from ..analysis.scaling.writing import write_study  # loads matplotlib

    places = [(row, column) for row in numbers.recipe.rows for column in _columns(numbers, panels)]
    known = known_sizes()
    points = [point for place in places if place in numbers.cells for point in _points(numbers, place, known)]
    if not points:
        raise UserError("no model of a named size is there")
    properties = {}
    if numbers.recipe.choices.get("properties"):
        path = folder / "properties.csv"
        measure_properties(PropertiesOptions(data=bench.options.data, out=path))
        properties = read_properties(path)
    write_study(analyse_scaling(Study(points=points), properties, PAPER_AXIS), folder / "scaling", with_published=True)


def _points(numbers: Numbers, place: tuple[str, str], known: Mapping[str, tuple[float, float]]) -> list[Point]:
    """A cell's scores on each task at its model's size, averaged over seeds."""
    cell = numbers.recipe.cells[place]
    size = next((name for name in known if cell.model.endswith(f"-{name}")), "")
    family, size = (cell.model.removesuffix(f"-{size}"), size) if size else (place[0], "vit-base")
    points = []
    for records in numbers.cells[place].records:
        intervals = [record.intervals.get("auc") for record in records]
        values = [interval.value for interval in intervals if interval]
        if len(values) == len(records):
            auc = 100 * float(np.mean(values))
            points.append(Point(family, known[size][0], records[0].task, auc, size=size))
    return points


def _columns(numbers: Numbers, panels: list[str]) -> list[str]:
    columns = [column for column, panel in numbers.recipe.panels.items() if panel in panels]
    _require(numbers, columns)
    return columns


def _require(numbers: Numbers, columns: list[str]) -> None:
    if all(cell.value is None for (_, column), cell in numbers.cells.items() if column in columns):
        raise UserError("none of its numbers is there")


def _reach(cell: Number) -> list[list[float]] | None:
    if cell.value is None or cell.low is None or cell.high is None:
        return None
    return [[max(cell.value - cell.low, 0)], [max(cell.high - cell.value, 0)]]


def _limits(numbers: Numbers, columns: list[str]) -> tuple[float, float]:
    """Axis limits from a little below the lowest number to at most 1, because no score of interest is near 0."""
    cells = [cell for (_, column), cell in numbers.cells.items() if column in columns]
    values = [
        v for cell in cells for v in (cell.value, cell.low, cell.printed and cell.printed.value) if v is not None
    ]
    return max(0.0, np.floor(20 * min(values) - 0.5) / 20), 1.0


def _metric(numbers: Numbers, columns: list[str]) -> str:
    names = {cell.metric for (_, column), cell in numbers.recipe.cells.items() if column in columns}
    titles = {"radiology": "(Dice + Jaccard) / 2 as the study takes it"}
    return ", ".join(sorted(titles.get(name, metric_title(name)) for name in names))


def _description(numbers: Numbers, columns: list[str]) -> str:
    lines = []
    for row in numbers.recipe.rows:
        cells = {column: numbers.cells[row, column] for column in columns if (row, column) in numbers.cells}
        values = [f"{column} {cell.value:.3f}" for column, cell in cells.items() if cell.value is not None]
        lines += [f"{row}: {', '.join(values)}"] if values else []
    return "; ".join(lines) + "."


PICTURES: dict[str, Picture] = {
    "bars": bars, "curves": curves, "ranks": ranks, "masks": masks, "scaling": scaling,
}  # fmt: skip
