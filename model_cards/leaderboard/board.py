"""Leaderboard tables of models by tasks: scores, ranks that paired tests support, and mean ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biovfm_hf.results.significance import task_ranks

from ..inputs.results import Comparison
from .entries import Entry, way_text
from .overlaps import NONE, Overlap

Overlaps = dict[str, dict[str, Overlap]]  # {model: {task: overlap}}


@dataclass(frozen=True)
class Cell:
    """A model's score on a task: the entry, its rank, and the ranks that paired tests leave possible.

    `first` and `last` are equal if the model differs from every other one, and None if some pair was not tested.
    """

    entry: Entry
    rank: float
    first: int | None
    last: int | None
    overlap: Overlap = NONE


@dataclass(frozen=True)
class Board:
    """A table of one method, with its settings, and metric.

    Attributes:
        method, settings, metric: of all its entries.
        title: the metric's for readers.
        tasks: columns.
        models: rows, best mean rank first.
        cells: {(model, task): cell}.
        mean_ranks: {model: mean rank over all tasks, None if it lacks some}.
        seconds: {model: seconds over its tasks, None if unknown}.
    """

    method: str
    settings: str
    metric: str
    title: str
    tasks: list[str]
    models: list[str]
    cells: dict[tuple[str, str], Cell]
    mean_ranks: dict[str, float | None]
    seconds: dict[str, float | None]


def make_boards(
    entries: Sequence[Entry], comparisons: Sequence[tuple[str, Comparison]], overlaps: Overlaps
) -> list[Board]:
    """One board for each method, settings and metric.

    Args:
        entries: with rows and columns (`naming.apart`). If one cell has several, that of the most seeds counts, and of
            these the last.
        comparisons: paired differences, which decide the possible ranks, each with the folder of its entries.
        overlaps: of the models' pretraining data (`read_overlaps`); a model is a row, or all rows of a name.
    """
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.method, entry.settings, entry.metric), []).append(entry)
    return [_board(group, comparisons, overlaps) for group in groups.values()]


def _board(entries: list[Entry], comparisons: Sequence[tuple[str, Comparison]], overlaps: Overlaps) -> Board:
    first = entries[0]
    by_cell = {(entry.row, entry.column): entry for entry in sorted(entries, key=lambda entry: entry.seed_count)}
    tasks = list(dict.fromkeys(entry.column for entry in entries))
    models = list(dict.fromkeys(entry.row for entry in entries))
    better = _signs(entries, by_cell, comparisons)
    cells: dict[tuple[str, str], Cell] = {}
    for task in tasks:
        there = [model for model in models if (model, task) in by_cell]
        scores = np.array([[by_cell[model, task].score.value for model in there]])
        ranks = task_ranks(-scores if first.lower_is_better else scores)[0]
        for model, rank in zip(there, ranks, strict=True):
            cells[model, task] = Cell(
                by_cell[model, task], float(rank), *_possible(model, there, better.get(task, {})),
                _overlap(by_cell[model, task], overlaps),
            )  # fmt: skip
    mean_ranks = {model: _mean_rank(model, tasks, cells) for model in models}
    seconds = {
        model: _seconds([by_cell[model, task] for task in tasks if (model, task) in by_cell]) for model in models
    }
    models.sort(key=lambda model: (mean_ranks[model] is None, mean_ranks[model] or 0.0))
    return Board(first.method, first.settings, first.metric, entries[-1].title, tasks, models, cells, mean_ranks,
                 seconds)  # fmt: skip


def _overlap(entry: Entry, overlaps: Overlaps) -> Overlap:
    return overlaps.get(entry.row, overlaps.get(entry.model, {})).get(entry.task, NONE)


def _signs(
    entries: list[Entry], by_cell: dict[tuple[str, str], Entry], comparisons: Sequence[tuple[str, Comparison]]
) -> dict[str, dict[tuple[str, str], int]]:
    """{column: {(a, b): 1 if row a is better than b, -1 if worse, 0 if they do not differ}}.

    A comparison counts if it is of the folder, method, settings and seeds of both cells.
    """
    entries_by_case = {(entry.folder, entry.model, entry.task, entry.seeds): entry for entry in entries}
    measured = (entries[0].method, entries[0].settings, entries[0].metric)
    signs: dict[str, dict[tuple[str, str], int]] = {}
    for folder, each in comparisons:
        if (way_text(each.method, each.protocol), each.settings, each.metric) != measured or each.p_holm is None:
            continue
        pair = [entries_by_case.get((folder, model, each.task, each.seed)) for model in (each.model_a, each.model_b)]
        shown = [entry for entry in pair if entry and by_cell[entry.row, entry.column].seeds == each.seed]
        if len(shown) == 2 and shown[0].column == shown[1].column:
            a, b = (entry.row for entry in shown)
            sign = (1 if each.favours_a else -1) if each.is_real else 0
            signs.setdefault(shown[0].column, {}).update({(a, b): sign, (b, a): -sign})
    return signs


def _possible(model: str, there: list[str], better: dict[tuple[str, str], int]) -> tuple[int | None, int | None]:
    signs = [better.get((model, other)) for other in there if other != model]
    if any(sign is None for sign in signs):
        return None, None
    return 1 + signs.count(-1), len(there) - signs.count(1)


def _mean_rank(model: str, tasks: list[str], cells: dict[tuple[str, str], Cell]) -> float | None:
    ranks = [cells[model, task].rank for task in tasks if (model, task) in cells]
    return float(np.mean(ranks)) if len(ranks) == len(tasks) else None


def _seconds(entries: list[Entry]) -> float | None:
    costs = [entry.cost for entry in entries]
    return None if None in costs else float(sum(cost for cost in costs if cost is not None))
