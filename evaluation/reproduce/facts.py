"""Tables of facts: the radiology study's sets and encoders, as counted here and as printed."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.results.published import cells as printed_cells
from biovfm_hf.writing.files import write_text

from ..encoders.lineup import LINEUP
from ..tasks import read_records
from .bench import Bench
from .numbers import Outcome
from .recipe import PAPERS, Recipe

Line = list[Any]


def produce_tasks(recipe: Recipe, bench: Bench) -> Outcome:
    """Write the table of sets: exam, kind, classes, images or volumes, beside the printed counts."""
    lines, missing, made = [], [], 0
    printed = printed_cells(recipe.name)
    for name in recipe.tasks:
        record = read_records()[name]
        paper = [_whole(printed.get((name, column))) for column in ("Classes", "Images or volumes")]
        try:
            splits = bench.task(name, recipe).splits
            counts: Line = [
                sum(split.num_cases for split in splits.values()),
                sum(len(s.images) for s in splits.values()),
            ]
            parts = " / ".join(f"{split.num_cases:,}" for split in splits.values())
            made += 1
        except UserError as error:
            counts, parts = ["", ""], ""
            missing.append(str(error))
        lines.append([record.title, record.kind, len(record.classes), paper[0], *counts, paper[1], parts])
    head = ("set", "kind", "classes", "printed", "cases", "images", "printed", "train / val / test")
    _write(recipe, bench, head, lines, missing)
    return Outcome(recipe.name, bench.out / recipe.name, made, len(recipe.tasks), missing)


def produce_encoders(recipe: Recipe, bench: Bench) -> Outcome:
    """Write the table of encoders: what each name loads, parameters beside the printed ones, input and feature."""
    printed = printed_cells(recipe.name)
    lines = [
        [name, entry.source, f"{entry.parameters:g}M", _millions(printed.get((name, "Parameters"))), entry.width,
         entry.size, entry.feature, entry.licence]
        for name, entry in ((name, LINEUP[name]) for name in recipe.models)
    ]  # fmt: skip
    head = ("encoder", "loads", "parameters", "printed", "width", "input", "feature", "licence")
    _write(recipe, bench, head, lines, [])
    return Outcome(recipe.name, bench.out / recipe.name, len(lines), len(lines))


def _whole(cell: Any) -> int | None:
    return None if cell is None else int(cell.value)


def _millions(cell: Any) -> str | None:
    return None if cell is None else f"{cell.value / 1e6:g}M"


def _write(recipe: Recipe, bench: Bench, head: Sequence[str], lines: list[Line], missing: list[str]) -> None:
    """Write table.md and table.csv to the item's folder."""
    texts = [[f"{v:,}" if isinstance(v, int) else "" if v is None else str(v) for v in line] for line in lines]
    parts = [f"# {recipe.name}: {recipe.title}", "", f"{PAPERS[recipe.paper]}.", ""]
    parts += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    parts += [f"| {' | '.join(line)} |" for line in texts]
    parts += ["", *(f"- missing: {reason}" for reason in missing), "", "## Not as in the paper", ""]
    parts += [f"- {text}" for text in recipe.differs]
    folder = bench.out / recipe.name
    write_text(folder / "table.md", "\n".join(parts) + "\n")
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([head, *lines])
    write_text(folder / "table.csv", stream.getvalue())
