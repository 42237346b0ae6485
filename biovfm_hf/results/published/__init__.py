"""The BioVFM paper's own numbers (README.md tells where each is from), to be shown beside a user's."""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def rows(name: str) -> list[dict[str, str]]:
    """Rows of `NAME.csv` as they stand."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def table1() -> dict[str, Any]:
    """Table 1: linear probes of six models by the authors' protocol, means over the twelve MedMNIST tasks in percent.

    `title`, `url`, `unit` and `notes` describe it; `method`, `protocol` and `tasks` say what compares with it;
    `metrics` are {name: title}; each of `rows` holds `model`, `supervision` and per metric [value, low, high].
    """
    return json.loads((FOLDER / "table1.json").read_text(encoding="utf-8"))


def table1_notes(settings: Any) -> list[str]:
    """What a reader must know of Table 1 beside rows that were probed with these settings (a mapping, or in words)."""
    drop_path = "on" if "authors_drop_path" in (settings or ()) else "off"
    return [*table1()["notes"], table1()["notes_on_drop_path"][drop_path]]
