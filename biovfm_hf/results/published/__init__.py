"""The printed numbers of both papers, to be shown beside a user's results (README.md gives their origins)."""

import csv
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
Place = tuple[str, str]  # a row and a column of a table


class Cell(NamedTuple):
    """One printed number, as a fraction if it is a score, and the bounds of its interval if it has one."""

    value: float
    low: float | None = None
    high: float | None = None


def rows(name: str) -> list[dict[str, str]]:
    """Rows of `NAME.csv`, unchanged."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def table1() -> dict[str, Any]:
    """Table 1: linear probes of six models by the authors' protocol, means over the twelve MedMNIST tasks in percent.

    `title`, `url`, `unit` and `notes` describe it; `method`, `protocol` and `tasks` name comparable results;
    `metrics` are {name: title}; each of `rows` holds `model`, `supervision` and per metric [value, low, high].
    """
    return json.loads((FOLDER / "table1.json").read_text(encoding="utf-8"))


def table1_notes(settings: Any) -> list[str]:
    """Caveats on Table 1 for a reader of rows probed with these settings (a mapping, or text)."""
    drop_path = "on" if "authors_drop_path" in (settings or ()) else "off"
    return [*table1()["notes"], table1()["notes_on_drop_path"][drop_path]]


@cache
def cells(item: str) -> dict[Place, Cell]:
    """The printed numbers of a table or figure, such as `radiology-table3`, by row and column.

    Empty if the item has no legible numbers. Numbers that a figure shares with a table are the table's.
    """
    taken = [
        {
            (rename_row.get(row, row), rename_column.get(column, column)): cell
            for (row, column), cell in cells(other).items()
        }
        for other, rename_row, rename_column in _SHARED.get(item, ())
    ]
    return {
        place: cell for part in (*taken, _READERS.get(item, partial(_of_file, item))()) for place, cell in part.items()
    }


def _of_file(item: str) -> dict[Place, Cell]:
    if not (FOLDER / f"{item}.csv").is_file():
        return {}
    return {
        (row["row"], column): Cell(float(value))
        for row in rows(item)
        for column, value in row.items()
        if column != "row" and value
    }


def _of_table1() -> dict[Place, Cell]:
    table = table1()
    return {
        (row["model"], title): Cell(*(round(end / 100, 6) for end in row[metric]))
        for row in table["rows"]
        for metric, title in table["metrics"].items()
    }


def _of_figure2() -> dict[Place, Cell]:
    """By family, and by model size, or by what the ViT-L was pretrained on (`, ultrasound`: on that task alone)."""
    sizes = {(row["family"], row["size"]): row["auc"] for row in rows("mean_auc")}
    task = {"mean of 12": "", "breastmnist": ", ultrasound"}
    subsets = {(row["family"], row["subset"] + task[row["task"]]): row["auc"] for row in rows("subsets")}
    return {place: Cell(round(float(auc) / 100, 6)) for place, auc in (sizes | subsets).items()}


_READERS: dict[str, Callable[[], dict[Place, Cell]]] = {"biovfm-table1": _of_table1, "biovfm-figure2": _of_figure2}
_LARGE, _GIANT = "DINOv2 ViT-L/14", "DINOv2 ViT-g/14"
# Cells taken from other items: (the other, {its row: row here}, {its column: column here}); equal names are omitted.
_SHARED: dict[str, tuple[tuple[str, dict[str, str], dict[str, str]], ...]] = {
    "radiology-table6": (("radiology-table5", {f"{_LARGE}, 448": _LARGE, f"{_GIANT}, 448": _GIANT}, {}),),
    "radiology-table7": (("radiology-table5", {}, {}),),
    "radiology-figure1": (
        ("radiology-figure3", {}, {}),
        ("radiology-table5", {f"{_LARGE}, 224": _LARGE, f"{_GIANT}, 224": _GIANT}, {}),
    ),
    "radiology-figure3": (
        ("radiology-table4", {}, {"NIH linear": "NIH Chest X-ray", "CheXpert linear": "CheXpert"}),
        ("radiology-table3", {}, {}),
    ),
    "radiology-figure4": (("radiology-table5", {f"{_LARGE}, 448": "U-Net"}, {}),),
    "radiology-figure6": (("radiology-table5", {f"{_LARGE}, 448": "U-Net"}, {}),),
}
