"""Leaderboard tables of models by tasks: scores, ranks that paired tests support, and mean ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biovfm_hf.results.significance import task_ranks

from ..inputs.results import Comparison
from .entries import Entry


@dataclass(frozen=True)
class Cell:
    """A model's score on a task: the entry, its rank, and the ranks that paired tests leave possible.

    `first` and `last` are equal if the model differs from every other one, and None if some pair was not tested.
    """

    entry: Entry
    rank: float
    first: int | None
    last: int | None
    flag: str = ""


@dataclass(frozen=True)
class Board:
    """A table of one method and metric.

    Attributes:
        method, metric: of all its entries.
        title: the metric's for readers.
        tasks: columns.
        models: rows, best mean rank first.
        cells: {(model, task): cell}.
        mean_ranks: {model: mean rank over all tasks, None if it lacks some}.
        seconds: {model: seconds over its tasks, None if unknown}.
    """

    method: str
    metric: str
    title: str
    tasks: list[str]
    models: list[str]
    cells: dict[tuple[str, str], Cell]
    mean_ranks: dict[str, float | None]
    seconds: dict[str, float | None]


def make_boards(
    entries: Sequence[Entry], comparisons: Sequence[Comparison], flags: dict[str, dict[str, str]]
) -> list[Board]:
    """One board for each method and metric.

    Args:
        entries: if a model and task occur twice (several settings or seeds), the last counts.
        comparisons: paired differences, which decide the possible ranks.
        flags: {model: {task: overlap of its pretraining data with the task}}.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.method, entry.metric), []).append(entry)
    return [_board(method, metric, group, comparisons, flags) for (method, metric), group in groups.items()]


def _board(
    method: str, metric: str, entries: list[Entry], comparisons: Sequence[Comparison], flags: dict[str, dict[str, str]]
) -> Board:
    by_cell = {(entry.model, entry.task): entry for entry in entries}
    tasks = list(dict.fromkeys(entry.task for entry in entries))
    models = list(dict.fromkeys(entry.model for entry in entries))
    better = _told_apart(method, metric, comparisons)
    cells: dict[tuple[str, str], Cell] = {}
    for task in tasks:
        there = [model for model in models if (model, task) in by_cell]
        scores = np.array([[by_cell[model, task].score.value for model in there]])
        ranks = task_ranks(-scores if entries[0].lower_is_better else scores)[0]
        for model, rank in zip(there, ranks, strict=True):
            first, last = _possible(model, there, better.get(task, {}))
            flag = flags.get(model, {}).get(task, "")
            cells[model, task] = Cell(by_cell[model, task], float(rank), first, last, flag)
    mean_ranks = {model: _mean_rank(model, tasks, cells) for model in models}
    seconds = {
        model: _seconds([by_cell[model, task] for task in tasks if (model, task) in by_cell]) for model in models
    }
    models.sort(key=lambda model: (mean_ranks[model] is None, mean_ranks[model] or 0.0))
    return Board(method, metric, entries[-1].title, tasks, models, cells, mean_ranks, seconds)


def _told_apart(method: str, metric: str, comparisons: Sequence[Comparison]) -> dict[str, dict[tuple[str, str], int]]:
    """{task: {(a, b): 1 if a is better than b, -1 if worse, 0 if they do not differ}}."""
    signs: dict[str, dict[tuple[str, str], int]] = {}
    for each in comparisons:
        name = f"{each.method}, {each.protocol}" if each.protocol else each.method
        if (name, each.metric) == (method, metric) and each.p_holm is not None:
            sign = (1 if each.favours_a else -1) if each.is_real else 0
            signs.setdefault(each.task, {}).update(
                {(each.model_a, each.model_b): sign, (each.model_b, each.model_a): -sign}
            )
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
