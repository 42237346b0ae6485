"""The table of an item with our and the printed numbers, and its tests, in Markdown, CSV, LaTeX and JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biovfm_hf.results.published import Place
from biovfm_hf.results.significance import p_text
from biovfm_hf.writing.csv_text import csv_text
from biovfm_hf.writing.files import write_text

from ..results.records import clean
from ..results.table import latex_text, metric_title
from .numbers import Number, Numbers
from .recipe import PAPERS, Cell

FIELDS = ("item", "row", "column", "metric", "value", "low", "high", "printed", "difference", "missing")


def write_tables(numbers: Numbers, changed: Mapping[str, Any], folder: Path) -> None:
    """Write table.md, table.csv, table.tex and item.json.

    Args:
        numbers: numbers of the item.
        changed: settings that the user gave instead of the recipe's.
        folder: folder of the item.
    """
    write_text(folder / "table.md", markdown(numbers, changed))
    write_text(folder / "table.csv", as_csv(numbers))
    write_text(folder / "table.tex", latex(numbers))
    write_text(folder / "item.json", json.dumps(clean(as_json(numbers, changed)), indent=1) + "\n")


def markdown(numbers: Numbers, changed: Mapping[str, Any]) -> str:
    """The whole table.md: the table, the tests, missing numbers, and differences from the paper."""
    recipe = numbers.recipe
    lines = [f"# {recipe.name}: {recipe.title}", "", f"{PAPERS[recipe.paper]}.", ""]
    unit = "Percent" if recipe.percent else "Fractions"
    lines += [f"{unit}, with 95 % intervals over test cases; in italics what the paper prints.", ""]
    if changed:
        listing = ", ".join(f"{name} {value}" for name, value in changed.items())
        lines += [f"**Not the recipe's settings**: {listing}.", ""]
    lines += ["| | " + " | ".join(recipe.columns) + " |", "|---" * (len(recipe.columns) + 1) + "|"]
    for row in recipe.rows:
        lines.append(f"| {row} | " + " | ".join(_both(numbers, (row, column)) for column in recipe.columns) + " |")
    lines += ["", *_tests(numbers), *_missing(numbers), "## Not as in the paper", ""]
    return "\n".join([*lines, *(f"- {text}" for text in recipe.differs)]) + "\n"


def _both(numbers: Numbers, place: Place) -> str:
    """Our number, followed by the printed one in italics."""
    if place not in numbers.cells:
        return ""
    number, cell = numbers.cells[place], numbers.recipe.cells[place]
    ours = number_text(number, cell, numbers.recipe.percent) or "missing"
    return ours if number.printed is None else f"{ours} *{printed_text(number, cell, numbers.recipe.percent)}*"


def number_text(number: Number, cell: Cell, percent: bool) -> str:
    """Our number with its interval in the paper's form, `0.763 (0.755, 0.771)`; empty if missing."""
    return _text(number.value, number.low, number.high, cell, percent)


def printed_text(number: Number, cell: Cell, percent: bool) -> str:
    """The paper's number in the same form; empty if there is none."""
    return "" if number.printed is None else _text(*number.printed, cell, percent)


def _text(value: float | None, low: float | None, high: float | None, cell: Cell, percent: bool) -> str:
    if value is None:
        return ""
    if cell.is_cost:
        share = cell.metric == "costs.share"
        return f"{100 * value:.2g} %" if share else _count(value)
    ends = [end for end in (low, high) if end is not None]
    texts = [f"{100 * each:.2f}" if percent else f"{each:.3f}" for each in (value, *ends)]
    return f"{texts[0]} ({', '.join(texts[1:])})" if len(ends) == 2 else texts[0]


def _count(value: float) -> str:
    """A number of weights with three digits, such as 8.05M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{float(f'{value / size:.3g}'):,g}{letter}"
    return f"{value:g}"


def _tests(numbers: Numbers) -> list[str]:
    """The tests of differences between rows."""
    if not numbers.tests:
        return []
    about = f"Paired on the same test cases. p (Holm) is corrected over the {len(numbers.tests)} tests of this item, "
    lines = ["## Differences between rows", "", about + "which the paper does not make.", ""]
    lines += ["| | metric | A | B | A - B | p | p (Holm) | real at 0.05 |", "|---" * 8 + "|"]
    for test in numbers.tests:
        p = test["p_holm"]
        verdict = "no p" if p is None else "yes" if p < 0.05 else "no"
        ends = [f"{test[end]:+.4f}" for end in ("difference", "low", "high") if test[end] is not None]
        shown = f"{ends[0]} ({ends[1]}, {ends[2]})" if len(ends) == 3 else "".join(ends)
        cells = (
            test["column"],
            metric_title(test["metric"]),
            test["a"],
            test["b"],
            shown,
            p_text(test["p"]),
            p_text(p),
        )
        lines.append("| " + " | ".join((*cells, verdict)) + " |")
    reasons = dict.fromkeys(test["reason"] for test in numbers.tests if test.get("reason"))
    return [*lines, "", *(f"- no p: {reason}" for reason in reasons), *([""] if reasons else [])]


def _missing(numbers: Numbers) -> list[str]:
    """Lines about missing numbers, by reason."""
    if not numbers.missing:
        return []
    lines = ["## Missing", ""]
    for reason, places in numbers.missing.items():
        rows = dict.fromkeys(row for row, _ in places)
        lines.append(f"- {', '.join(rows)} ({len(places)} of the numbers): {reason}")
    return [*lines, ""]


def as_csv(numbers: Numbers) -> str:
    """One line per number; scores are fractions."""
    return csv_text((_line(numbers, place) for place in numbers.cells), FIELDS)


def _line(numbers: Numbers, place: Place) -> dict[str, Any]:
    number = numbers.cells[place]
    return {
        "item": numbers.recipe.name,
        "row": place[0],
        "column": place[1],
        "metric": numbers.recipe.cells[place].metric,
        "value": number.value,
        "low": number.low,
        "high": number.high,
        "printed": None if number.printed is None else number.printed.value,
        "difference": number.difference,
        "missing": "; ".join(number.missing),
    }


def as_json(numbers: Numbers, changed: Mapping[str, Any]) -> dict[str, Any]:
    """The content as JSON values: `cells`, `tests`, `differs`, and the settings that the user `changed`."""
    recipe = numbers.recipe
    return {
        "item": recipe.name,
        "title": recipe.title,
        "paper": PAPERS[recipe.paper],
        "changed_settings": dict(changed),
        "cells": [_line(numbers, place) for place in numbers.cells],
        "tests": numbers.tests,
        "differs": list(recipe.differs),
    }


def latex(numbers: Numbers) -> str:
    """A LaTeX tabular (booktabs); printed numbers have a column of their own beside ours."""
    recipe = numbers.recipe
    shown = [(c, any(column == c and n.printed for (_, column), n in numbers.cells.items())) for c in recipe.columns]
    spans = [f"\\multicolumn{{{2 if beside else 1}}}{{c}}{{{latex_text(column)}}}" for column, beside in shown]
    lines = [
        f"% {recipe.name}: {recipe.title}",
        f"\\begin{{tabular}}{{l{'c' * sum(1 + beside for _, beside in shown)}}}",
    ]
    lines += ["\\toprule", " & ".join(["", *spans]) + r" \\"]
    heads = [head for _, beside in shown for head in (["ours", "paper"] if beside else ["ours"])]
    lines += [" & ".join(["", *heads]) + r" \\", r"\midrule"]
    for row in recipe.rows:
        texts = [text for column, beside in shown for text in _latex_pair(numbers, (row, column), beside)]
        lines.append(" & ".join([latex_text(row), *texts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_pair(numbers: Numbers, place: Place, beside: bool) -> list[str]:
    if place not in numbers.cells:
        return [""] * (1 + beside)
    number, cell, percent = numbers.cells[place], numbers.recipe.cells[place], numbers.recipe.percent
    texts = [number_text(number, cell, percent) or "--", printed_text(number, cell, percent)]
    return [latex_text(text) for text in texts[: 1 + beside]]
