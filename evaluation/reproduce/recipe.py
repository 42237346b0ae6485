"""Recipes of the two papers' tables and figures, one YAML file each in `recipes/`.

A recipe of scores has `rows` and `columns`. Each name in them gives a part of a cell's definition; `cell` has the
parts that all cells share:

    title: Linear probing for disease classification compared to supervised methods
    kind: scores
    cell: {method: linear, metric: auc}
    rows:
      DINOv2 ViT-L/14: {model: dinov2-l}
    columns:
      NIH Chest X-ray: {tasks: [nih_chestxray14]}

The printed numbers are in `biovfm_hf/results/published`, under the same names of rows and columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean
from biovfm_hf.reading.documents import read_yaml
from biovfm_hf.results.published import Cell as Printed
from biovfm_hf.results.published import Place
from biovfm_hf.results.published import cells as printed_cells

FOLDER = Path(__file__).parent / "recipes"
PAPERS = {
    "biovfm": "BioVFM-21M: benchmarking and scaling self-supervised vision foundation models for biomedical image "
    "analysis (arXiv 2505.09329)",
    "radiology": "Towards general purpose vision foundation models for medical image analysis: an experimental study "
    "of DINOv2 on radiology benchmarks (arXiv 2312.02366)",
}


@dataclass(frozen=True)
class Cell:
    """The definition of one number of a table.

    Attributes:
        model: a name of the line-up, or one for which `--model NAME=SOURCE` gives weights.
        tasks: the tasks that the number averages.
        method: a method of `biovfm probe`, with its `protocol` and `settings`.
        metric: a metric of the records, or `costs.NAME` for a cost in them.
    """

    model: str
    tasks: tuple[str, ...]
    method: str
    protocol: str = "fast"
    settings: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "auc"

    @property
    def is_cost(self) -> bool:
        """Whether it is a number of weights, a time or a share instead of a score."""
        return self.metric.startswith("costs.")


@dataclass(frozen=True)
class Recipe:
    """How to make one item of a paper.

    Attributes:
        name: PAPER-ITEM, such as `radiology-table3`.
        title: title of the item.
        kind: what makes it, one of `command.KINDS`.
        rows, columns: names of rows and columns, in order.
        cells: {(row, column): cell}; some places may be empty.
        panels: {column: panel of a picture}.
        pictures: how the numbers are drawn: a name of `pictures.PICTURES`, and the panels that it shows.
        against: rows that every other row is tested against.
        percent: whether the paper prints percent.
        size: size of MedMNIST's images in pixels.
        sources: {model: what it loads} for models that are not in the line-up.
        weights: {model: what the user can do} for models that cannot be downloaded.
        forms: {model: named size} for such models whose name does not end with the size.
        differs: differences from the paper, with reasons.
        choices: settings of the kind.
    """

    name: str
    title: str
    kind: str
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    cells: Mapping[Place, Cell] = field(default_factory=dict)
    panels: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, list[str]] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    percent: bool = False
    size: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    forms: Mapping[str, str] = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paper(self) -> str:
        """The key of the paper in `PAPERS`."""
        return self.name.partition("-")[0]

    @property
    def models(self) -> list[str]:
        """Every model that a cell or `choices` names."""
        named = [cell.model for cell in self.cells.values()] + list(self.choices.get("models", ()))
        return list(dict.fromkeys(named))

    @property
    def tasks(self) -> list[str]:
        """Every task that a cell or `choices` names."""
        named = [task for cell in self.cells.values() for task in cell.tasks] + list(self.choices.get("tasks", ()))
        return list(dict.fromkeys(named))

    @property
    def printed(self) -> Mapping[Place, Printed]:
        """The paper's numbers at the places of the recipe."""
        return {place: cell for place, cell in printed_cells(self.name).items() if place in self.cells}


def recipe_names() -> list[str]:
    """Names of all items, the tables and figures of each paper in order."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=_order)


def _order(name: str) -> tuple[str, int, int]:
    paper, _, item = name.partition("-")
    kind = item.rstrip("0123456789")
    return paper, ("table", "figure").index(kind), int(item.removeprefix(kind))


def resolve_items(items: tuple[str, ...]) -> list[str]:
    """Resolve names of items, papers (`biovfm`, `radiology`) or `all` to names of items without repeats.

    Raises:
        UserError: there is no such item.
    """
    names: list[str] = []
    for word in items:
        if word in ("all", *PAPERS):
            names += [name for name in recipe_names() if word == "all" or name.startswith(f"{word}-")]
        elif word in recipe_names():
            names.append(word)
        else:
            hint = did_you_mean(word, [*recipe_names(), *PAPERS])
            raise UserError(f"{word!r} is not a table or figure of the papers{hint}; see: biovfm reproduce --list")
    return list(dict.fromkeys(names))


@cache
def find_recipe(name: str) -> Recipe:
    """The recipe of an item.

    Raises:
        UserError: its file is not a recipe.
    """
    return read_recipe(FOLDER / f"{name}.yaml")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file, which is named after the item.

    Raises:
        UserError: it is not a YAML mapping, or a key is missing or unknown.
    """
    content = read_yaml(path)
    rows, columns = (dict(content.pop(key, {})) for key in ("rows", "columns"))
    shared = content.pop("cell", {})
    try:
        cells = {
            (row, column): _cell(column, shared, rows[row], columns[column])
            for row in rows
            for column in columns
            if columns[column].get("panel") in rows[row].get("panels", [columns[column].get("panel")])
        }
        panels = {name: str(column.get("panel", "")) for name, column in columns.items()}
        listed = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
        return Recipe(
            path.stem, rows=tuple(rows), columns=tuple(columns), cells=cells, panels=panels, **(content | listed)
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a recipe ({error}); see the head of evaluation/reproduce/recipe.py") from error


def _cell(column: str, *parts: Mapping[str, Any]) -> Cell:
    """Merge parts into a cell: later parts win, settings add up, `{column}` in a model becomes the column's name."""
    merged: dict[str, Any] = {}
    for part in parts:
        settings = {**merged.get("settings", {}), **part.get("settings", {})}
        merged |= {**part, "settings": settings}
    known = {item.name for item in fields(Cell)}
    if unknown := set(merged) - known - {"panel", "panels"}:
        raise TypeError(f"unknown key {', '.join(sorted(unknown))}")
    merged = {name: value for name, value in merged.items() if name in known}
    return Cell(**{**merged, "tasks": tuple(merged["tasks"]), "model": merged["model"].format(column=column)})
