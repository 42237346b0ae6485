"""The report's section on scores: a table for each way of probing, paired differences, ranks, and figures."""

from typing import Any

import numpy as np
from markupsafe import Markup

from biovfm_hf.results import significance
from biovfm_hf.results.record import Record

from ..inputs.results import (
    Comparison,
    is_lower_better,
    is_main,
    metric_order,
    positive_classes,
    primary_metric,
    seed_text,
    warnings_of,
    way_text,
)
from . import charts
from .figures import figures
from .material import MAX_ROWS, Material

MAIN_METRICS = 6


def evaluation_section(material: Material) -> dict[str, Any] | None:
    """One table per method, protocol and settings, intervals drawn for the main metric; paired differences; ranks."""
    records, comparisons = material.records, material.comparisons
    if not records:
        return None
    models = list(dict.fromkeys(record.model for record in records))
    names = dict(zip(models, shortened(models), strict=True))
    alike: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        alike.setdefault((record.method, record.protocol, record.settings_text), []).append(record)
    tables = [_score_table(chosen, models, names) for chosen in alike.values()]
    ways = _ways(comparisons)
    main = [row for row in comparisons if is_main(row, records)]
    other = [row for row in comparisons if not is_main(row, records)]

    def named(rows: list[Comparison]) -> list[dict[str, Any]]:
        return [_difference(row, names, ways[_way(row)]) for row in rows[:MAX_ROWS]]

    return {
        "tables": tables,
        "positive": positive_classes(records),
        "pictures": figures(material.results, material),
        "models": models,
        "key": [(names[model], charts.style_of(index)) for index, model in enumerate(models)]
        if len(models) > 1
        else [],
        "comparisons": named(main),
        "other_comparisons": named(other),
        "comparisons_left_out": sum(max(0, len(rows) - MAX_ROWS) for rows in (main, other)),
    }


def _difference(row: Comparison, names: dict[str, str], way: str) -> dict[str, Any]:
    """A paired difference with its verdict: `better > worse`, or that none was shown or tested."""
    a, b = names.get(row.model_a, row.model_a), names.get(row.model_b, row.model_b)
    verdict = ""
    if row.is_real:
        verdict = f"{a} > {b}" if row.favours_a else f"{b} > {a}"
    return {"row": row, "a": a, "b": b, "way": way, "verdict": verdict}


def shortened(names: list[str]) -> list[str]:
    """The shortest distinct parts of path-like names: a/x/model, a/y/model -> x, y."""
    parts = [[part for part in name.replace("\\", "/").split("/") if part] or [name] for name in names]
    parts = [part[:-1] if part[-1] == "model" and len(part) > 1 else part for part in parts]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        short = ["/".join(part[-depth:]) for part in parts]
        if len(set(short)) == len(names):
            return short
    return names


def _way(row: Comparison) -> tuple[str, str, str, str]:
    return row.method, row.protocol, row.settings, row.seed


def _ways(comparisons: list[Comparison]) -> dict[tuple[str, str, str, str], str]:
    """The differences between a method's comparisons in words: empty if protocol, settings and seed are the same."""
    ways = list(dict.fromkeys(map(_way, comparisons)))
    methods = [way[0] for way in ways]
    return {way: way_text(*way[1:]) if methods.count(way[0]) > 1 else "" for way in ways}


def _score_table(records: list[Record], models: list[str], names: dict[str, str]) -> dict[str, Any]:
    primary = primary_metric(records)
    order = [primary, *[name for name in metric_order(records) if name != primary]]
    shown = [r.intervals[primary] for r in records if primary in r.intervals]
    axis = charts.axis_of([v for entry in shown for v in (entry.value, entry.low, entry.high) if v is not None])
    tasks: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda r: models.index(r.model))[:MAX_ROWS]:
        entry = record.intervals.get(primary)
        style = charts.style_of(models.index(record.model))
        mark = charts.interval_mark(entry.value, entry.low, entry.high, axis, style) if entry else Markup("")
        seeds = way_text("", "", seed_text(record.seeds))
        row = {"record": record, "model": names[record.model], "mark": mark, "style": style, "seeds": seeds}
        tasks.setdefault(record.task, []).append(row)
    return {
        "method": records[0].method,
        "protocol": records[0].protocol,
        "settings": records[0].settings_text,
        "few_shot": records[0].few_shot,
        "metrics": order[:MAIN_METRICS],
        "others": order[MAIN_METRICS:],
        "primary": primary,
        "axis": charts.interval_axis(axis),
        "tasks": [(task, rows, list(warnings_of(row["record"] for row in rows))) for task, rows in tasks.items()],
        "ranks": mean_ranks(records, primary, names),
        "left_out": max(0, len(records) - MAX_ROWS),
        "seeds": list(dict.fromkeys(filter(None, (way_text("", "", seed_text(record.seeds)) for record in records)))),
        "joined": any(record.joined and not record.few_shot for record in records),
        "seconds": sum(record.seconds or 0 for record in records) or None,
    }


def mean_ranks(records: list[Record], metric: str, names: dict[str, str]) -> list[tuple[str, float, int]]:
    """(model, mean rank, tasks), best first, over the tasks that every model has exactly once; 1 is best, ties share.

    It is empty with fewer than two models or two such tasks. Models with several weights have no rank.
    """
    weights = [model for model, _ in {(record.model, record.revision) for record in records}]
    records = [record for record in records if weights.count(record.model) == 1]
    scores: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if metric in record.intervals:
            scores.setdefault(record.task, {}).setdefault(record.model, []).append(record.intervals[metric].value)
    models = {record.model for record in records}
    complete = [row for row in scores.values() if set(row) == models and all(len(v) == 1 for v in row.values())]
    if len(models) < 2 or len(complete) < 2:
        return []
    sign = -1 if is_lower_better(metric, records) else 1
    order = sorted(models)
    values = np.array([[sign * row[model][0] for model in order] for row in complete])
    ranks = [
        (names[model], float(rank), len(complete))
        for model, rank in zip(order, significance.mean_ranks(values), strict=True)
    ]
    return sorted(ranks, key=lambda row: (row[1], row[0]))
