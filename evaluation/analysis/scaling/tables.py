"""Reads the study's CSV files: every cell is checked, every error names its line."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.writing.files import write_text

POINT_COLUMNS = ("family", "params_millions", "task", "auc")
SCORE_COLUMNS = ("family", "params_millions", "task", "metric", "score")  # of any metric from 0 to 1
OPTIONAL_POINT_COLUMNS = ("low", "high", "subset", "size", "images_millions", "objective")
SLOPE_COLUMNS = ("family", "task", "slope")
PROPERTIES = ("num_samples", "num_classes", "dbi", "gzip", "entropy")
MEAN = "mean"
MAX_ROWS = 100_000


@dataclass(frozen=True)
class Point:
    """One score of one model on one task.

    Attributes:
        family: pretraining family, such as BioVFM-D.
        params: x value in millions of parameters.
        task: task name.
        score: in percent, above 0 and at most 100.
        low: lower end of its 95 % interval in percent, NaN if unknown.
        high: upper end of its 95 % interval in percent, NaN if unknown.
        subset: pretraining data, empty if the study varies model size only.
        size: named model size (`vit-tiny` ...), empty if not given.
        images: pretraining images seen, in millions, NaN if unknown.
        objective: pretraining objective, such as dino; empty if not given.
        metric: the metric of the score.
    """

    family: str
    params: float
    task: str
    score: float
    low: float = math.nan
    high: float = math.nan
    subset: str = ""
    size: str = ""
    images: float = math.nan
    objective: str = ""
    metric: str = "AUC"

    @property
    def series(self) -> str:
        """The name of the curve to fit: the family, with its pretraining data if the study varies the data."""
        return f"{self.family} on {self.subset}" if self.subset else self.family


@dataclass(frozen=True)
class Study:
    """The contents of a points file: scores, or slopes that were already fitted."""

    points: list[Point] = field(default_factory=list)
    slopes: dict[str, dict[str, float]] = field(default_factory=dict)


def read_points(path: str | Path) -> Study:
    """Read a file with the columns `family,params_millions,task,auc`.

    `metric,score` may replace `auc`, or `slope` replace all numbers (`family,task,slope`). `auc` is in percent;
    `score` is any metric from 0 to 1 that `metric` names, such as Dice or average precision. Optional columns: low,
    high (95 % interval, in the unit of the score), subset (pretraining data), size (`vit-tiny` ...), images_millions
    (pretraining images seen), objective (dino ...).

    Raises:
        UserError: columns are missing or unknown, cells are empty or not numbers, scores are out of range, a row is
            given twice, or a task is called mean.
    """
    path = Path(path)
    header, rows = _rows(path)
    if set(header) == set(SLOPE_COLUMNS):
        return Study(slopes=_read_slopes(path, rows))
    _check_columns(path, header, SCORE_COLUMNS if "score" in header else POINT_COLUMNS, OPTIONAL_POINT_COLUMNS)
    points: list[Point] = []
    seen: dict[tuple, int] = {}
    for line, row in rows:
        point = _point(path, line, row)
        key = (point.family, point.subset, point.params, point.task)
        if key in seen:
            raise UserError(f"{path}: lines {seen[key]} and {line} give {point.series} at {point.params:g} M on "
                            f"{point.task} twice; keep one, or average the seeds first")  # fmt: skip
        seen[key] = line
        points.append(point)
    return Study(points=points)


def _point(path: Path, line: int, row: dict[str, str]) -> Point:
    name, whole = ("score", 1.0) if "score" in row else ("auc", 100.0)
    score = _positive(path, line, row, name)
    # No classifier worth a point has an AUC of 1 %, so such a score is a fraction: of this row or of the whole file.
    if name == "auc" and score <= 1:
        raise UserError(f"{path}: line {line}: auc is {score:g}; give AUC in percent, {100 * score:g} for this one")
    if score > whole:
        unit = "AUC is in percent and at most 100" if name == "auc" else "a score is from 0 to 1"
        raise UserError(f"{path}: line {line}: {name} is {score:g}; {unit}")
    low, high = (_optional(path, line, row, end) for end in ("low", "high"))
    if not math.isnan(low) and not math.isnan(high) and not low <= score <= high:
        raise UserError(f"{path}: line {line}: {name} {score:g} lies outside its interval {low:g} to {high:g}")
    percent = 100 / whole
    return Point(
        family=_text(path, line, row, "family"), params=_positive(path, line, row, "params_millions"),
        task=_task(path, line, row), score=score * percent, low=low * percent, high=high * percent,
        subset=row.get("subset", "").strip(), size=row.get("size", "").strip(),
        images=_optional(path, line, row, "images_millions"), objective=row.get("objective", "").strip(),
        metric="AUC" if name == "auc" else _text(path, line, row, "metric"),
    )  # fmt: skip


def _read_slopes(path: Path, rows: list[tuple[int, dict[str, str]]]) -> dict[str, dict[str, float]]:
    slopes: dict[str, dict[str, float]] = {}
    for line, row in rows:
        family, task = _text(path, line, row, "family"), _task(path, line, row)
        if task in slopes.setdefault(family, {}):
            raise UserError(f"{path}: line {line}: {family} on {task} is given twice; keep one")
        slopes[family][task] = _number(path, line, row, "slope")
    return slopes


def read_properties(path: str | Path) -> dict[str, dict[str, float]]:
    """Read `task,num_samples,num_classes,dbi,gzip` (and `entropy`): {property: {task: value}}.

    A property that is missing, or whose column is empty throughout, is not analysed.

    Raises:
        UserError: a column is unknown, a property is given for some tasks only, a value is not above 0, or a task is
            given twice.
    """
    path = Path(path)
    header, rows = _rows(path)
    _check_columns(path, header, ("task",), PROPERTIES)
    properties: dict[str, dict[str, float]] = {}
    tasks: dict[str, int] = {}
    for line, row in rows:
        task = _text(path, line, row, "task")
        if task in tasks:
            raise UserError(f"{path}: lines {tasks[task]} and {line} both describe {task}; keep one")
        tasks[task] = line
        for name in set(header) & set(PROPERTIES):
            if row[name].strip():
                properties.setdefault(name, {})[task] = _positive(path, line, row, name)
    for name, values in properties.items():
        if len(values) < len(tasks):
            lacking = ", ".join(task for task in tasks if task not in values)
            raise UserError(f"{path}: {name} is missing for {lacking}; fill it in, or leave the column empty")
    if not properties:
        raise UserError(f"{path}: describes no property; give columns out of: {', '.join(PROPERTIES)}")
    return {name: properties[name] for name in PROPERTIES if name in properties}


def write_rows(path: str | Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as CSV, atomically; floats have 6 significant digits, NaN and None become empty cells."""
    lines = [",".join(columns)]
    for row in rows:
        lines.append(",".join(_cell(row.get(name)) for name in columns))
    write_text(path, "\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            _check_separator(path, header)
            rows = [
                (reader.line_num, _whole(path, reader.line_num, row))
                for row, _ in zip(reader, range(MAX_ROWS + 1), strict=False)
            ]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from error
    if len(rows) > MAX_ROWS:
        raise UserError(f"{path}: has more than {MAX_ROWS} rows; is this the right file?")
    if not rows:
        raise UserError(f"{path}: holds no rows below its header")
    if len(set(header)) < len(header):
        raise UserError(f"{path}: a column name appears twice in the header: {', '.join(header)}")
    return header, rows


def _check_separator(path: Path, header: list[str]) -> None:
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and sign in header[0]:
            raise UserError(
                f"{path}: its cells are separated by {name}; separate them by commas, and write 0.5, not 0,5"
            )


def _whole(path: Path, line: int, row: dict[Any, Any]) -> dict[str, str]:
    if None in row or None in row.values():
        raise UserError(f"{path}: line {line} has {'more' if None in row else 'fewer'} cells than the header")
    return row


def _check_columns(path: Path, header: list[str], needed: Sequence[str], optional: Sequence[str]) -> None:
    lacking = [name for name in needed if name not in header]
    unknown = [name for name in header if name not in (*needed, *optional)]
    if lacking:
        raise UserError(f"{path}: lacks the column {', '.join(lacking)}; the header is: {','.join(needed)}")
    if unknown:
        raise UserError(f"{path}: unknown column {', '.join(unknown)}; known are: {', '.join((*needed, *optional))}")


def _text(path: Path, line: int, row: dict[str, str], name: str) -> str:
    value = row[name].strip()
    if not value:
        raise UserError(f"{path}: line {line}: {name} is empty")
    return value


def _task(path: Path, line: int, row: dict[str, str]) -> str:
    task = _text(path, line, row, "task")
    if task.lower() == MEAN:
        raise UserError(f"{path}: line {line}: the task is called {task}, as is the mean over tasks in slopes.csv; "
                        "leave such rows out, or name the task otherwise")  # fmt: skip
    return task


def _number(path: Path, line: int, row: dict[str, str], name: str) -> float:
    text = _text(path, line, row, name)
    try:
        value = float(text)
    except ValueError as error:
        raise UserError(f"{path}: line {line}: {name} is {text!r}, which is not a number") from error
    if not math.isfinite(value):
        raise UserError(f"{path}: line {line}: {name} is {text}; it must be finite")
    return value


def _positive(path: Path, line: int, row: dict[str, str], name: str) -> float:
    value = _number(path, line, row, name)
    if value <= 0:
        raise UserError(f"{path}: line {line}: {name} is {value:g}; it must be above 0 (its logarithm is taken)")
    return value


def _optional(path: Path, line: int, row: dict[str, str], name: str) -> float:
    return _number(path, line, row, name) if row.get(name, "").strip() else math.nan
