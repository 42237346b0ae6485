"""`groups.json` of a results folder: the gaps between groups of test cases, of each record and grouping."""

import json
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import nearest
from biovfm_hf.reading.documents import read_json
from biovfm_hf.results.record import Record
from biovfm_hf.writing.files import write_text

from ...statistics.kinds import SEGMENTATION
from ...tasks import Task
from ..records import NAMING, REMEDY, clean, locked, read_scores, stored_split
from .bands import bands
from .report import group_lines, group_rows

GROUPS_FILE = "groups.json"
GROUPING = (*NAMING, "by")  # fields by which a later row replaces an earlier one
MEASURED = (*NAMING, "revision", "data")  # fields by which a row belongs to a record that is still there


def check_columns(tasks: list[Task], by: tuple[str, ...]) -> None:
    """Raise a UserError if a task has no column to group its test cases by."""
    for task in tasks:
        known = task.splits["test"].columns
        for name in by:
            if name not in known:
                there = f"; there are {', '.join(known)}{nearest(name, known)}" if known else ""
                raise UserError(f"task {task.name} has no column {name!r} to group its cases by{there}")


def write_groups(out: Path, records: list[Record], tasks: list[Task], by: tuple[str, ...]) -> list[dict[str, Any]]:
    """Add the gaps between groups for the tasks' records to groups.json, and print them.

    Rows of other tasks and groupings stay in the file while their record is in the folder; a row of the same record
    and grouping is replaced.

    Returns:
        All rows: those of `report.group_rows`, each with the fields that name its record, its `revision` and `data`.
    """
    rows = _new_rows(out, records, tasks, by)
    path = out / GROUPS_FILE
    with locked(out):
        renewed = {_key(row, GROUPING) for row in rows}
        rows = [row for row in _earlier_rows(path, records) if _key(row, GROUPING) not in renewed] + rows
        write_text(path, json.dumps(clean(rows), indent=1, allow_nan=False) + "\n")
    return rows


def _new_rows(out: Path, records: list[Record], tasks: list[Task], by: tuple[str, ...]) -> list[dict[str, Any]]:
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
        named = {name: getattr(record, name) for name in MEASURED}
        rows += [named | row for row in own]
    return rows


def _earlier_rows(path: Path, records: list[Record]) -> list[dict[str, Any]]:
    """The rows of the file whose record is still there, with the same weights and data."""
    rows = read_json(path, REMEDY) if path.is_file() else []
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {*GROUPING, *MEASURED} <= set(row) for row in rows
    ):
        raise UserError(f"{path}: not a list of gaps between groups; {REMEDY}")
    known = {_key(vars(record), MEASURED) for record in records}
    return [row for row in rows if _key(row, MEASURED) in known]


def _key(row: dict[str, Any], names: tuple[str, ...]) -> str:
    return json.dumps([row[name] for name in names], sort_keys=True)
