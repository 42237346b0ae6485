"""Finds the figures of a results folder, and those that show test images of private tasks."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from biovfm_hf.cards.provenance import read_provenance


class FigureKind(NamedTuple):
    """A kind of figure: its caption, and whether it shows test images themselves."""

    caption: str
    shows_images: bool = False


FIGURES = {  # by the word that file names begin with, in the order of cards and reports
    "rank-against-rank": FigureKind("Rank by classification beside rank by segmentation"),
    "ranks": FigureKind("Mean rank of each model over the tasks, with differences too small to count"),
    "pca": FigureKind("Patch tokens as colours; patches of one colour are similar to the model", shows_images=True),
    "roc": FigureKind("Share of cases found at each share of false alarms"),
    "masks": FigureKind("Masks of test images, drawn by hand and by the model", shows_images=True),
    "boxes": FigureKind("Boxes in test images, drawn by hand and by the model", shows_images=True),
    "fewshot": FigureKind("Scores by the number of training cases"),
    "tsne": FigureKind("Test cases by their features; near ones are similar to the model"),
    "confusion": FigureKind("Cases of each true class by the class that the model chose"),
    "attention": FigureKind("Where the class token looks in test images", shows_images=True),
    "corrupted": FigureKind("Errors on corrupted test images"),
}


def figure_files(folder: Path) -> list[Path]:
    """The PNG pictures in a folder's `figures/`, or in the folder itself, by kind (FIGURES) and name; others last."""
    place = folder / "figures" if (folder / "figures").is_dir() else folder
    ranks = {kind: rank for rank, kind in enumerate(FIGURES)}
    return sorted(place.glob("*.png"), key=lambda file: (ranks.get(kind_word(file), len(ranks)), file.name))


def kind_word(figure: Path) -> str:
    """The first word of a figure's file name, a key of `FIGURES` if the figure is of a known kind."""
    return figure.stem.split("_")[0]


def safe_word(name: str) -> str:
    """A model's or task's name in the form of a figure's file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")


@dataclass(frozen=True)
class PrivateFigures:
    """The private tasks of a results folder. A figure's file name is `KIND_MODEL_TASK...`, in safe words."""

    tasks: tuple[str, ...]

    @classmethod
    def of(cls, results: Path) -> "PrivateFigures":
        """The private tasks that the folder's provenance file names.

        Raises:
            UserError: that file is damaged.
        """
        return cls(read_provenance(results).private_tasks)

    def tasks_shown(self, figure: Path) -> tuple[str, ...]:
        """The private tasks whose test images a figure shows; all of them if its name was cut and does not tell.

        A figure of an unknown kind may show images.
        """
        word, *parts = figure.stem.split("_")
        kind = FIGURES.get(word)
        if (kind and not kind.shows_images) or not self.tasks:
            return ()
        if len(parts) < 2:
            return self.tasks
        return tuple(task for task in self.tasks if safe_word(task) in parts[1:])
