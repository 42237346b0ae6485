"""The report's sections as plain data for the template: each function takes what a folder said and returns a dict."""

from math import log1p
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from biovfm_hf import significance
from biovfm_hf.documents import read_json, read_text

from ..inputs.compute import Power, compute_lines
from ..inputs.dataset import DatasetSummary, sample_images
from ..inputs.figures import figure_files
from ..inputs.files import finite, read_csv
from ..inputs.leakage import MAX_OVERLAPS, leakage_lines
from ..inputs.model import ModelSummary
from ..inputs.results import Comparison, Interval, Record, metric_order, primary_metric, way_words
from ..inputs.run import RunSummary, group_of
from . import charts
from .pictures import PictureStore

MAX_ROWS = 1500
MAX_FIGURES = 40
MAX_CHARTS = 24
MAIN_METRICS = 6
MAIN = ("auc", "dice")
GROUPS = {
    "loss": (
        "Losses",
        "What the optimiser lowers, over optimisation steps. A line is the mean of neighbours, a band their range.",
    ),
    "watch": ("Collapse diagnostics", "Quantities that show whether features still tell images apart."),
    "schedule": ("Schedules and gradients", "What was set for each step, and how large the gradient was."),
    "speed": ("Speed", "How fast the run went."),
}
NOTES = {
    "rankme": "Effective rank of the features (RankMe). Collapse shows as a fall towards 1.",
    "teacher_entropy": "Mean entropy of the teacher's targets. Near 0, every image gets a hard, perhaps the same, "
    "prototype; near the logarithm of the number of prototypes, targets say nothing.",
    "knn": "Balanced accuracy of nearest neighbours on a small labelled task, held-out images.",
    "grad_norm": "Norm of the gradient before clipping.",
    "koleo_loss": "Spread of the class tokens on the sphere; rises when they crowd together.",
}

GAP = "How far the cross-entropy is below uniform guessing, in nats; at 0 the student learns nothing."


def dataset_section(summary: DatasetSummary, store: PictureStore, seed: int) -> dict[str, Any]:
    """Counts as a modality x anatomy table, sources with licences, outcomes, and a drawn sample per modality."""
    modalities = _ordered({modality: 0 for modality, _ in summary.cells}, summary.cells, 0)
    anatomies = _ordered({anatomy: 0 for _, anatomy in summary.cells}, summary.cells, 1)
    top = max(summary.cells.values(), default=1)
    rows = [
        {
            "name": anatomy,
            "cells": [_cell(summary.cells.get((modality, anatomy), 0), top) for modality in modalities],
            "total": sum(summary.cells.get((modality, anatomy), 0) for modality in modalities),
        }
        for anatomy in anatomies
    ]
    grid = [
        (modality, [picture for alt, raw in found if (picture := store.add(raw, alt, 160))])
        for modality, found in sample_images(summary, seed=seed).items()
    ]
    outcomes = sorted((summary.outcomes or {}).items(), key=lambda item: (item[0] != "kept", -item[1]))
    details = sorted(summary.outcomes_by_source.items(), key=lambda item: (item[0][0], -item[1]))
    return {
        "summary": summary,
        "modalities": modalities,
        "rows": rows,
        "totals": [sum(summary.cells.get((modality, anatomy), 0) for anatomy in anatomies) for modality in modalities],
        "sources": sorted(summary.sources.items(), key=lambda item: (-item[1], item[0])),
        "outcomes": outcomes[:60],
        "considered": sum(count for _, count in outcomes),
        "details": [(source, outcome, count) for (source, outcome), count in details if outcome != "kept"][:MAX_ROWS],
        "leakage": leakage_lines(summary.leakage),
        "overlaps": summary.leakage.overlaps[:MAX_OVERLAPS] if summary.leakage else [],
        "grid": [(modality, pictures) for modality, pictures in grid if pictures],
        "seed": seed,
    }


def _ordered(totals: dict[str, int], cells: dict[tuple[str, str], int], axis: int) -> list[str]:
    for key, count in cells.items():
        totals[key[axis]] += count
    return sorted(totals, key=lambda name: (-totals[name], name))


def _cell(count: int, top: int) -> tuple[int, int]:
    """A count and how dark its cell is, 0 to 10, by the logarithm of the count."""
    return count, round(10 * log1p(count) / log1p(top)) if count else 0


def training_section(runs: list[RunSummary], store: PictureStore) -> dict[str, Any]:
    """Charts by group, runs laid over each other, with the final values as a table, and each run's crop sheet."""
    names: list[str] = []
    for run in runs:
        names += [name for name in run.series if name not in names]
    groups = []
    for group, (title, text) in GROUPS.items():
        members = [name for name in names if group_of(name) == group][:MAX_CHARTS]
        members.sort(key=lambda name: (name != "loss", name != "rankme"))
        if members:
            groups.append({"title": title, "text": text, "charts": [_chart(name, runs) for name in members]})
    crops = [(run, store.add(run.crops, _crops_alt(run), 1400)) for run in runs if run.crops is not None]
    return {
        "runs": runs,
        "key": [(run.name, _style(index)) for index, run in enumerate(runs)] if len(runs) > 1 else [],
        "groups": groups,
        "crops": [(run.name, picture) for run, picture in crops if picture],
    }


def _chart(name: str, runs: list[RunSummary]) -> dict[str, Any]:
    lines = [
        charts.Line(run.name, run.series[name].steps, run.series[name].values)
        if name in run.series
        else charts.Line(run.name, [], [])
        for run in runs
    ]
    finals = [(run.name, run.series[name].last[1]) for run in runs if name in run.series]
    note = NOTES.get(name, GAP if name.endswith("_gap") else "")
    return {"name": name, "svg": charts.line_chart(name, lines), "finals": finals, "note": note}


def _crops_alt(run: RunSummary) -> str:
    return f"Sheet of augmented crops that the run {run.name} saw at its start"


def _style(index: int) -> int:
    return index % charts.STYLES


def model_rows(model: ModelSummary, run: RunSummary | None) -> dict[str, Any]:
    """A model folder's facts."""
    return {"summary": model, "compute": compute_lines(model, run, Power())}


def evaluation_section(records: list[Record], comparisons: list[Comparison]) -> dict[str, Any]:
    """One table per method, protocol and settings, intervals drawn for the main metric; paired differences; ranks."""
    models = list(dict.fromkeys(record.model for record in records))
    names = dict(zip(models, shortened(models), strict=True))
    alike: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        alike.setdefault((record.method, record.protocol, record.settings), []).append(record)
    tables = [_score_table(chosen, models, names) for chosen in alike.values()]
    told = _ways(comparisons)
    main, other = ([row for row in comparisons if (row.metric in MAIN) == wanted] for wanted in (True, False))

    def named(rows: list[Comparison]) -> list[tuple[Comparison, str, str, str]]:
        return [
            (row, names.get(row.model_a, row.model_a), names.get(row.model_b, row.model_b), told[_way(row)])
            for row in rows[:MAX_ROWS]
        ]

    return {
        "tables": tables,
        "models": models,
        "key": [(names[model], _style(index)) for index, model in enumerate(models)] if len(models) > 1 else [],
        "comparisons": named(main),
        "other_comparisons": named(other),
        "comparisons_left_out": sum(max(0, len(rows) - MAX_ROWS) for rows in (main, other)),
    }


def shortened(names: list[str]) -> list[str]:
    """The shortest endings of path-like names that tell them apart: a/x/model, a/y/model -> x, y."""
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
    """In words what tells a method's comparisons apart: nothing where protocol, settings and seed are the same."""
    ways = list(dict.fromkeys(map(_way, comparisons)))
    methods = [way[0] for way in ways]
    return {way: way_words(*way[1:]) if methods.count(way[0]) > 1 else "" for way in ways}


def _score_table(records: list[Record], models: list[str], names: dict[str, str]) -> dict[str, Any]:
    primary = primary_metric(records)
    order = [primary, *[name for name in metric_order(records) if name != primary]]
    shown = [r.metrics[primary] for r in records if primary in r.metrics]
    axis = charts.axis_of([v for entry in shown for v in (entry.value, entry.low, entry.high) if v is not None])
    tasks: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda r: models.index(r.model))[:MAX_ROWS]:
        entry = record.metrics.get(primary)
        style = _style(models.index(record.model))
        mark = charts.interval_mark(entry.value, entry.low, entry.high, axis, style) if entry else Markup("")
        row = {"record": record, "model": names[record.model], "mark": mark, "style": style}
        tasks.setdefault(record.task, []).append(row)
    return {
        "method": records[0].method,
        "protocol": records[0].protocol,
        "settings": records[0].settings,
        "few_shot": records[0].is_few_shot,
        "metrics": order[:MAIN_METRICS],
        "others": order[MAIN_METRICS:],
        "primary": primary,
        "axis": charts.interval_axis(axis),
        "tasks": list(tasks.items()),
        "ranks": mean_ranks(records, primary, names),
        "left_out": max(0, len(records) - MAX_ROWS),
        "seeds": sorted({record.seed for record in records if record.seed is not None}),
        "seconds": sum(record.seconds or 0 for record in records) or None,
    }


def mean_ranks(records: list[Record], metric: str, names: dict[str, str]) -> list[tuple[str, float, int]]:
    """(model, mean rank, tasks), best first, over the tasks that every model has exactly once; 1 is best, ties share.

    Empty with fewer than two models or two such tasks. Models of several weights have no rank.
    """
    weights = [model for model, _ in {(record.model, record.revision) for record in records}]
    records = [record for record in records if weights.count(record.model) == 1]
    scores: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if metric in record.metrics:
            scores.setdefault(record.task, {}).setdefault(record.model, []).append(record.metrics[metric].value)
    models = {record.model for record in records}
    complete = [row for row in scores.values() if set(row) == models and all(len(v) == 1 for v in row.values())]
    if len(models) < 2 or len(complete) < 2:
        return []
    sign = -1 if metric in ("ece", "brier") else 1
    order = sorted(models)
    values = np.array([[sign * row[model][0] for model in order] for row in complete])
    ranks = [
        (names[model], float(rank), len(complete))
        for model, rank in zip(order, significance.mean_ranks(values), strict=True)
    ]
    return sorted(ranks, key=lambda row: (row[1], row[0]))


def figures(folder: Path, store: PictureStore) -> list[Any]:
    """A folder's figures (see `figure_files`); the .txt beside each says what it shows.

    Those beyond MAX_FIGURES are named in the store's `left_out`.
    """
    found = []
    files = figure_files(folder)
    store.left_out += [f"{file.name}: in the folder {file.parent.name}" for file in files[MAX_FIGURES:]]
    for file in files[:MAX_FIGURES]:
        text = file.with_suffix(".txt")
        title = file.stem.replace("_", " ")
        alt = " ".join(read_text(text, 2**16).split()) if text.is_file() else title
        found.append(store.add(file, alt, 1600, caption=title, drawn=True))
    return [picture for picture in found if picture]


def scaling_section(folder: Path, store: PictureStore) -> dict[str, Any]:
    """Slopes per family and task with their intervals, correlations, remarks, and the study's figures.

    Reads `summary.json`, and `slopes.csv` and `correlations.csv` where they are.

    Raises:
        UserError: a file is unreadable.
    """
    summary = read_json(folder / "summary.json")
    summary = summary if isinstance(summary, dict) else {}
    means, bounds, forms = (_mapping(summary, name) for name in ("mean_slopes", "mean_slope_intervals", "form"))
    slopes = {family: row for family, row in _mapping(summary, "slopes").items() if isinstance(row, dict)}
    families = list(slopes)[:12]
    tasks = list(dict.fromkeys(str(task) for family in families for task in slopes[family]))[:200]
    spans = {
        (row.get("family"), row.get("task")): (_number(row.get("low")), _number(row.get("high")))
        for row in read_csv(folder / "slopes.csv")
    }
    cells = [(task, [_slope(slopes[f].get(task), spans.get((f, task))) for f in families]) for task in tasks]
    rows = read_csv(folder / "correlations.csv", 400) if (folder / "correlations.csv").is_file() else []
    notes = summary.get("notes")
    return {
        "name": folder.resolve().name,
        "families": families,
        "tasks": cells,
        "means": [_slope(means.get(family), bounds.get(family)) for family in families],
        "notes": [f"{family}: {text}" for family, text in forms.items()][:12]
        + ([str(note) for note in notes][:20] if isinstance(notes, list) else []),
        "correlation_header": list(rows[0])[:9] if rows else [],
        "correlations": [[_rounded(value) for value in list(row.values())[:9]] for row in rows],
        "figures": figures(folder, store),
    }


def _mapping(summary: dict[str, Any], name: str) -> dict[str, Any]:
    value = summary.get(name)
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else {}


def _slope(value: Any, span: Any) -> Interval | None:
    point = finite(value)
    if point is None:
        return None
    low, high = (
        (finite(bound) for bound in span) if isinstance(span, list | tuple) and len(span) == 2 else (None, None)
    )
    return Interval(point, low, high)


def _number(text: str | None) -> float | None:
    try:
        return finite(float(text or ""))
    except ValueError:
        return None


def _rounded(text: str) -> str:
    value = _number(text)
    return text if value is None or value == int(value) else f"{value:.3f}"
