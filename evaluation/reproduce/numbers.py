"""The numbers of a table: ours with intervals, the printed ones, and the reasons for missing ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biovfm_hf.results.published import Cell as Printed
from biovfm_hf.results.published import Place
from biovfm_hf.results.record import Record

from .recipe import Recipe


@dataclass(frozen=True)
class Number:
    """One number of a table.

    Attributes:
        value, low, high: our number with its 95 % interval; None if there is none.
        printed: the paper's number.
        missing: reasons why our number is missing.
        records: for each task, the records of every seed.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    printed: Printed | None = None
    missing: tuple[str, ...] = ()
    records: tuple[tuple[Record, ...], ...] = ()

    @property
    def difference(self) -> float | None:
        """Our number minus the paper's."""
        return None if self.value is None or self.printed is None else self.value - self.printed.value


@dataclass(frozen=True)
class Numbers:
    """All numbers of a recipe, and the tests of differences between its rows."""

    recipe: Recipe
    cells: Mapping[Place, Number]
    tests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def missing(self) -> dict[str, list[Place]]:
        """{reason: places without a number of ours}."""
        reasons: dict[str, list[Place]] = {}
        for place, number in self.cells.items():
            if number.value is None:
                for reason in number.missing or ("not made yet",):
                    reasons.setdefault(reason, []).append(place)
        return reasons


@dataclass(frozen=True)
class Outcome:
    """The outcome of an item: its folder, the number of made parts and of all parts, and what is missing.

    `failed` lists parts that had everything they need and still failed.
    """

    item: str
    folder: Path
    made: int
    total: int
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
