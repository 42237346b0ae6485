"""Ranks over segmentation tasks against ranks over classification tasks, as in the DINOv2 radiology study."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .figure import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

LABEL_OFFSET = (6, 4)  # of a name from its point, in 1/72 inch
Places = Mapping[str, tuple[float, float]]  # {model: (rank in segmentation, rank in classification)}


def rank_plane(places: Places, printed: Places | None = None) -> "Figure":
    """The models at their ranks: segmentation on the x axis, classification on the y axis, rank 1 at the upper right.

    Args:
        places: ranks from our numbers.
        printed: ranks from a paper, drawn hollow.
    """
    figure = new_figure(4.4, 4.2)
    axes = figure.add_subplot()
    labels = [_point(axes, name, at, COLOURS[n % len(COLOURS)]) for n, (name, at) in enumerate(places.items())]
    for number, at in enumerate((printed or {}).values()):
        axes.plot(*at, "D", color="0.4", markersize=6, markerfacecolor="none", label="" if number else "printed")
    every = [*places.values(), *(printed or {}).values()]
    top = max(len(places), *(rank for at in every for rank in at)) + 0.5
    axes.plot([0.5, top], [0.5, top], color="0.8", linewidth=1, linestyle="--", zorder=0)
    axes.set(xlim=(top, 0.5), ylim=(top, 0.5), aspect="equal")
    axes.set(xlabel="rank in segmentation", ylabel="rank in classification")
    axes.spines[["top", "right"]].set_visible(False)
    if printed:
        axes.legend(fontsize=7, frameon=False, loc="lower left")
    spread_labels(figure, labels)
    return figure


def _point(axes: "Axes", name: str, at: tuple[float, float], colour: str) -> "Annotation":
    axes.plot(*at, "o", color=colour, markersize=8)
    return axes.annotate(name, at, xytext=LABEL_OFFSET, textcoords="offset points", fontsize=8)


def spread_labels(figure: "Figure", labels: "list[Annotation]") -> None:
    """Move labels down until none overlaps another, as those of models with equal ranks would."""
    figure.draw_without_rendering()  # labels have no position before this
    placed: list[Bbox] = []
    for label in sorted(labels, key=lambda label: -label.get_window_extent().y0):
        right, up = LABEL_OFFSET
        while any(label.get_window_extent().overlaps(other) for other in placed):
            up -= 2
            label.xyann = (right, up)
        placed.append(label.get_window_extent())
