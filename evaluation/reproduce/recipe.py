"""Recipes of the two papers' tables and figures, one YAML file each in `recipes/`.

A recipe of scores gives `rows` and `columns`, each name with a part of what a cell is; `cell` holds what all share:

    title: Linear probing for disease classification compared to supervised methods
    kind: scores
    cell: {method: linear, metric: auc}
    rows:
      DINOv2 ViT-L/14: {model: dinov2-l}
    columns:
      NIH Chest X-ray: {tasks: [nih_chestxray14]}

The printed numbers stand in `biovfm_hf/results/published`, by the same names of rows and columns.
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
        model: a name of the line-up, or one that `--model NAME=SOURCE` gives weights to.
        tasks: whose mean it is.
        method: of `biovfm probe`, with its `protocol` and `settings`.
        metric: of the records, or `costs.NAME` for what a record tells of its costs.
    """

    model: str
    tasks: tuple[str, ...]
    method: str
    protocol: str = "fast"
    settings: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "auc"

    @property
    def is_cost(self) -> bool:
        """Whether it is a number of weights, a time or a share, and no score."""
        return self.metric.startswith("costs.")


@dataclass(frozen=True)
class Recipe:
    """How to make one item of a paper.

    Attributes:
        name: PAPER-ITEM, such as `radiology-table3`.
        title: of the item.
        kind: what makes it, one of `command.KINDS`.
        rows, columns: their names, in order.
        cells: what stands where; some places may be empty.
        panels: of a picture, by column.
        pictures: how the numbers are drawn: a name of `pictures.PICTURES`, and the panels it shows.
        against: rows that every other row is tested against.
        percent: whether the paper prints percent.
        size: of MedMNIST's images, pixels.
        sources: what a model's name loads where it is none of the line-up's.
        weights: for models that cannot be downloaded, what can be done.
        forms: the named size of such models, where their name does not end with it.
        differs: differences from the paper, with reasons.
        choices: of the kind's own.
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
        """Every model that a cell names, or that `choices` do."""
        named = [cell.model for cell in self.cells.values()] + list(self.choices.get("models", ()))
        return list(dict.fromkeys(named))

    @property
    def tasks(self) -> list[str]:
        """Every task that a cell names, or that `choices` do."""
        named = [task for cell in self.cells.values() for task in cell.tasks] + list(self.choices.get("tasks", ()))
        return list(dict.fromkeys(named))

    @property
    def printed(self) -> Mapping[Place, Printed]:
        """The paper's numbers at the places of the recipe."""
        return {place: cell for place, cell in printed_cells(self.name).items() if place in self.cells}


def recipe_names() -> list[str]:
    """All items, the papers' tables and figures in their order."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=_order)


def _order(name: str) -> tuple[str, int, int]:
    paper, _, item = name.partition("-")
    kind = item.rstrip("0123456789")
    return paper, ("table", "figure").index(kind), int(item.removeprefix(kind))


def resolve_items(items: tuple[str, ...]) -> list[str]:
    """Names of items, `all`, or those of a paper (`biovfm`, `radiology`), as names without repeats.

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
        UserError: its file is no recipe.
    """
    return read_recipe(FOLDER / f"{name}.yaml")


def read_recipe(path: Path) -> Recipe:
    """Read one recipe file, which bears the item's name.

    Raises:
        UserError: it is no YAML mapping, or a key is missing or unknown.
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
    """The cell that parts make, later ones on top; their settings add up, and `{column}` in a model is the column."""
    merged: dict[str, Any] = {}
    for part in parts:
        settings = {**merged.get("settings", {}), **part.get("settings", {})}
        merged |= {**part, "settings": settings}
    known = {item.name for item in fields(Cell)}
    if unknown := set(merged) - known - {"panel", "panels"}:
        raise TypeError(f"unknown key {', '.join(sorted(unknown))}")
    merged = {name: value for name, value in merged.items() if name in known}
    return Cell(**{**merged, "tasks": tuple(merged["tasks"]), "model": merged["model"].format(column=column)})
