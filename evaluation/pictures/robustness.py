"""A picture of errors on corrupted images by corruption and model, beside AlexNet's if known."""

from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from biovfm_hf.results.record import Record

from ..results.records import grouped
from ..tasks.corruptions.benchmark import CORRUPTIONS, benchmarks
from .figure import COLOURS, discard, figure_path, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_robustness(out: Path, records: list[Record]) -> None:
    """Draw one picture per task, method and settings whose records have `robustness`. Removes earlier pictures."""
    discard(out, "corrupted")
    groups = grouped([record for record in records if "robustness" in record.further],
                     attrgetter("task", "method", "protocol", "settings", "seed"))  # fmt: skip
    names = [(group[0].task, group[0].method, group[0].protocol) for group in groups]
    for name, group in zip(names, groups, strict=True):
        number = [str(names[: groups.index(group)].count(name))] if names.count(name) > 1 else []
        _draw_group(figure_path(out, "corrupted", *name, *number), group)


def _draw_group(path: Path, group: list[Record]) -> None:
    corruptions = list(group[0].further["robustness"]["corruptions"])
    figure = new_figure(7.5, 1.6 + 0.42 * len(corruptions))
    axes = figure.subplots()
    rows = np.arange(len(corruptions))[::-1]
    for number, record in enumerate(group):
        offset = (number - (len(group) - 1) / 2) * 0.7 / len(group)
        _draw_model(axes, record, rows - offset, COLOURS[number % len(COLOURS)])
    if group[0].further["robustness"]["own"]:
        alexnet = benchmarks()[group[0].further["robustness"]["benchmark"]].alexnet
        axes.plot([100 * alexnet[name] for name in corruptions], rows, "k|", markersize=12, label="AlexNet")
    axes.set_yticks(rows, [name.replace("_", " ") for name in corruptions])
    axes.set_xlabel("error (1 - balanced accuracy), %, mean of five severities; dotted: without corruption")
    axes.set_xlim(left=0)
    axes.set_title(f"{group[0].task}, {group[0].method}: corrupted test images", fontsize=10)
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(1, 0))
    axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path, robustness_description(group))


def _draw_model(axes: "Axes", record: Record, places: np.ndarray, colour: str) -> None:
    part = record.further["robustness"]
    entries = [row["error"] for row in part["corruptions"].values()]
    values = np.array([entry["value"] for entry in entries])
    ends = np.array([[entry["value"] if entry[end] is None else entry[end] for entry in entries]
                     for end in ("low", "high")])  # fmt: skip
    reach = np.abs(ends - values)
    axes.errorbar(100 * values, places, xerr=100 * reach, fmt="o", markersize=4, linewidth=1, color=colour,
                  label=record.model)  # fmt: skip
    axes.axvline(100 * part["clean_error"]["value"], color=colour, linestyle=":", linewidth=1)


def robustness_description(group: list[Record]) -> str:
    """A description of the picture: each model's error without and with corruption, and its worst corruption."""
    lines = [f"Errors on corrupted test images of {group[0].task} by {group[0].method}."]
    for record in group:
        part = record.further["robustness"]
        worst = part["worst"]
        lines.append(
            f"{record.model}: {100 * part['clean_error']['value']:.1f} % without corruption, "
            f"{100 * part['error']['value']:.1f} % on average with; worst {worst} ({CORRUPTIONS[worst].kind}), "
            f"{100 * part['corruptions'][worst]['error']['value']:.1f} %."
        )
    return "\n".join(lines)
