"""Finds the figures of a results folder, and those that show test images of private tasks."""

import re
from dataclasses import dataclass
from pathlib import Path

from biovfm_hf.cards.provenance import read_provenance

FIGURE_ORDER = ("rank", "pca", "roc", "masks", "fewshot", "tsne", "confusion", "attention")  # as file names begin
SHOW_IMAGES = ("pca", "masks", "attention")  # kinds that show test images themselves


def figure_files(folder: Path) -> list[Path]:
    """The PNG pictures in a folder's `figures/`, or in the folder itself, by kind (FIGURE_ORDER) and name."""
    place = folder / "figures" if (folder / "figures").is_dir() else folder
    return sorted(place.glob("*.png"), key=lambda file: (_figure_rank(file.name), file.name))


def _figure_rank(name: str) -> int:
    return next((rank for rank, word in enumerate(FIGURE_ORDER) if name.startswith(word)), len(FIGURE_ORDER))


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
        """The private tasks whose test images a figure shows; all of them if its name was cut and does not tell."""
        kind, *parts = figure.stem.split("_")
        if kind not in SHOW_IMAGES or not self.tasks:
            return ()
        if len(parts) < 2:
            return self.tasks
        return tuple(task for task in self.tasks if safe_word(task) in parts[1:])
