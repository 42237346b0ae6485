"""Chooses the figures of a results folder for a model's card, and copies them into the model folder."""

import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from biovfm_hf.reading.documents import read_text
from biovfm_hf.writing.files import atomic_path

from ..inputs.figures import PrivateFigures, figure_files, safe_word

MAX_PICTURES = 6


@dataclass(frozen=True)
class Figures:
    """The figures a card shows: path in the model folder -> file.

    `private_tasks` names private tasks whose test images it shows, `left_out` the files left out for showing them.
    """

    chosen: dict[str, Path]
    private_tasks: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def pictures(self) -> list[dict[str, str]]:
        """Path and alternative text of each; the first one heads the card."""
        shown = sorted(self.chosen, key=lambda path: not path.startswith("figures/pca"))
        return [{"path": path, "alt": read_text(self.chosen[path].with_suffix(".txt"), 2**16)} for path in shown]


def choose_figures(results: Path | None, others: set[str], private_images: bool) -> Figures:
    """Up to six described figures of a results folder, two of a kind.

    Args:
        results: the folder, if there is one.
        others: models whose figures are left out.
        private_images: show test images of private tasks too.
    """
    if results is None or not results.is_dir():
        return Figures({})
    foreign = {safe_word(name) for name in others}
    private = PrivateFigures.of(results)
    chosen: dict[str, Path] = {}
    tasks: set[str] = set()
    left_out: list[str] = []
    kinds: Counter[str] = Counter()
    for figure in figure_files(results):
        kind, _, rest = figure.stem.partition("_")
        fit = figure.with_suffix(".txt").is_file() and re.fullmatch(r"[\w.-]+", figure.name)
        if not fit or rest.split("_")[0] in foreign or kinds[kind] == 2 or len(chosen) == MAX_PICTURES:
            continue
        shows = private.tasks_shown(figure)
        if shows and not private_images:
            left_out.append(figure.name)
            continue
        kinds[kind] += 1
        tasks |= set(shows)
        chosen[f"figures/{figure.name}"] = figure
    return Figures(chosen, tuple(sorted(tasks)), tuple(left_out))


def carry_figures(figures: Figures, model_dir: Path, earlier: str) -> None:
    """Copy the figures into the model folder; remove those of the `earlier` card that this one does not show."""
    for old in re.findall(r"\]\((figures/[\w.-]+\.png)\)", earlier):
        if old not in figures.chosen:
            (model_dir / old).unlink(missing_ok=True)
    for path, figure in figures.chosen.items():
        with atomic_path(model_dir / path) as temporary:
            shutil.copyfile(figure, temporary)
