"""`groups.json` of a results folder: the gaps between groups of test cases for each record that was just scored."""

import json
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean
from biovfm_hf.results.record import Record
from biovfm_hf.writing.files import write_text

from ...statistics.kinds import SEGMENTATION
from ...tasks import Task
from ..records import NAMING, clean, read_scores, stored_split
from .groups import bands
from .report import group_lines, group_rows

GROUPS_FILE = "groups.json"


def check_columns(tasks: list[Task], by: tuple[str, ...]) -> None:
    """Raise a UserError if a task has no column to group its test cases by."""
    for task in tasks:
        known = task.splits["test"].columns
        for name in by:
            if name not in known:
                there = f"; there are {', '.join(known)}{did_you_mean(name, known)}" if known else ""
                raise UserError(f"task {task.name} has no column {name!r} to group its cases by{there}")


def write_groups(out: Path, records: list[Record], tasks: list[Task], by: tuple[str, ...]) -> list[dict[str, Any]]:
    """Write and print the gaps between groups for the tasks' records.

    Returns:
        Rows of `report.group_rows`, each with the fields that name its record.
    """
    columns = {task.name: task.splits["test"].columns for task in tasks if task.record.kind != SEGMENTATION}
    rows = []
    for record in records:
        known = columns.get(record.task, {})
        groups = {name: bands(name, known[name]) for name in by if name in known}
        split = stored_split(record, read_scores(out, record)) if groups else None
        if split is None or split.thresholds is None or any(len(each) != split.size for each in groups.values()):
            continue
        own = group_rows(split, groups)
        for line in group_lines(own):
            print(f"{record.model}  {record.task}  {record.method}  {line}")
        named = {name: getattr(record, name) for name in NAMING}
        rows += [named | row for row in own]
    write_text(out / GROUPS_FILE, json.dumps(clean(rows), indent=1, allow_nan=False) + "\n")
    return rows
