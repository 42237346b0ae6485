"""The table of a results folder, in Markdown, LaTeX and CSV: means over tasks, every task, and differences."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.results.published import table1, table1_notes
from biovfm_hf.results.record import Record
from biovfm_hf.results.significance import p_text
from biovfm_hf.writing.files import write_text

from ..statistics.metrics import find_metric, is_lower_better, table_metrics
from .robustness import robustness_entries, robustness_lines

RESAMPLES = 1000  # the usual number, which tables do not mention
NOT_RECORDED = "not recorded"
Cell = dict[str, Any] | None  # None: the metric is undefined
Cells = dict[str, Cell]  # of a row, by metric; one that is not recorded is missing
Blocks = dict[str, list[Record]]


def metric_title(name: str) -> str:
    """A metric's name in tables."""
    metric = find_metric(name)
    return name if metric is None else metric.title


def write_tables(out: Path, records: list[Record], joined: list[Record], comparisons: list[dict[str, Any]]) -> None:
    """Write table.md, table.tex and table.csv of a results folder.

    Args:
        out: the results folder.
        records: every record, for the CSV file.
        joined: the records with several seeds joined (`seeds.over_seeds`), for the other files.
        comparisons: rows of `comparisons.compare_models`.
    """
    write_text(
        out / "table.md", "\n".join([markdown(joined, comparisons), *robustness_lines(records)]).rstrip() + "\n"
    )
    write_text(out / "table.tex", latex(joined))
    write_text(out / "table.csv", long_csv(records, joined))


def blocks(records: list[Record], seen_as: Callable[[Record], Record] = lambda record: record) -> Blocks:
    """Group records that are comparable: same method, protocol and settings, and same seed if seeds differ.

    `seen_as` maps each record to the record whose fields count.
    """
    seeds = {_seed_text(record.seeds) for record in records}
    groups: Blocks = {}
    for record in records:
        seen = seen_as(record)
        name = f"{seen.method}, protocol {seen.protocol}"
        name += f", seed {_seed_text(seen.seeds)}" if len(seeds) > 1 or seen.joined else ""
        settings = seen.settings_text
        groups.setdefault(f"{name} ({settings})" if settings else name, []).append(record)
    return groups


def _seed_text(seeds: Any) -> str:
    """The seed of a record or of a row of comparisons.json, or the list of seeds that it averages."""
    return f"{', '.join(map(str, seeds))} (mean)" if isinstance(seeds, list) else str(seeds)


def names_in_order(records: list[Record], field: str) -> list[str]:
    """The different values of a field, in order of appearance."""
    return list(dict.fromkeys(str(getattr(record, field)) for record in records))


def positives(records: list[Record]) -> list[str]:
    """The positive classes of records of a binary task, one if all are of the same data; empty for other kinds."""
    return list(dict.fromkeys(record.positive for record in records if record.positive is not None))


def unlike(records: list[Record], field: str, name: str) -> list[str]:
    """The values of the field `name` whose records differ in `field`, such as a model with records of two revisions.

    A folder keeps its records until the same command is run on new weights or data, so it may contain both.
    """
    return [value for value in names_in_order(records, name)
            if len({getattr(record, field) for record in records if getattr(record, name) == value}) > 1]  # fmt: skip


def record_cells(record: Record) -> Cells:
    """The metrics of a record, None for those that it says are undefined."""
    return {**dict.fromkeys(record.undefined or {}), **record.metrics}


def mean_cell(entries: list[Cell]) -> Cell:
    """Mean over tasks with an interval: half-widths of independent tasks add in quadrature, on each side."""
    known = [entry for entry in entries if entry is not None]
    if len(known) < len(entries) or not known:
        return None
    value = float(np.mean([entry["value"] for entry in known]))
    if any(entry.get("low") is None or entry.get("high") is None for entry in known):
        return {"value": value, "low": None, "high": None}
    down = float(np.sqrt(sum((entry["value"] - entry["low"]) ** 2 for entry in known))) / len(known)
    up = float(np.sqrt(sum((entry["high"] - entry["value"]) ** 2 for entry in known))) / len(known)
    return {"value": value, "low": value - down, "high": value + up}


def mean_rows(records: list[Record]) -> tuple[list[str], list[str], dict[str, Cells]]:
    """The table of means: metrics, the tasks it averages, and the cells of each model.

    It has only models with records of every task, all with the same weights.
    """
    tasks = names_in_order(records, "task")
    metrics = [name for name in table_metrics(averaged=True) if any(name in r.metrics for r in records)]
    rows: dict[str, Cells] = {}
    mixed = unlike(records, "revision", "model")
    for model in names_in_order(records, "model"):
        cells = {r.task: record_cells(r) for r in records if r.model == model}
        if set(cells) == set(tasks) and model not in mixed:
            recorded = [m for m in metrics if all(m in cells[t] for t in tasks)]
            rows[model] = {m: mean_cell([cells[t][m] for t in tasks]) for m in recorded}
    return metrics, tasks, rows


def published_rows(record: Record, tasks: list[str], metrics: list[str]) -> dict[str, Cells]:
    """Table 1 of BioVFM-21M (arXiv 2505.09329), means over twelve tasks, if the block of `record` is comparable.

    It is comparable if it has linear probes by the paper's protocol on the same tasks.
    """
    table = table1()
    if (record.method, record.protocol) != (table["method"], table["protocol"]) or set(tasks) != set(table["tasks"]):
        return {}
    return {
        f"{row['model']} (published)": {metric: _published_cell(row[metric]) for metric in metrics if metric in row}
        for row in table["rows"]
    }


def _published_cell(ends: list[float]) -> Cell:
    return {name: round(end / 100, 4) for name, end in zip(("value", "low", "high"), ends, strict=True)}


def cell_text(cell: Cell, bold: bool = False, scale: float = 100) -> str:
    """A cell, in percent unless `scale` differs: `94.40 (93.90, 94.84)`, or `undefined`."""
    if cell is None:
        return "undefined"
    text = f"{scale * cell['value']:.2f}"
    text = f"**{text}**" if bold else text
    if cell.get("low") is None or cell.get("high") is None:
        return text
    return f"{text} ({scale * cell['low']:.2f}, {scale * cell['high']:.2f})"


def metric_text(cells: Cells, metric: str, bold: bool = False) -> str:
    """A metric of a row in its unit: as `cell_text`, or `not recorded`."""
    return cell_text(cells[metric], bold, metric_scale(metric)) if metric in cells else NOT_RECORDED


def metric_scale(name: str) -> float:
    """The factor for a metric's values in tables: 100 for percent, 1 for distances."""
    metric = find_metric(name)
    return 100.0 if metric is None or metric.percent else 1.0


def best_models(rows: dict[str, Cells], metric: str) -> set[str]:
    """The models with the best value of a metric, if there are several models."""
    values = {model: cells[metric]["value"] for model, cells in rows.items() if cells.get(metric)}  # type: ignore[index]
    best = min if is_lower_better(metric) else max
    return {m for m, v in values.items() if v == best(values.values())} if len(values) > 1 else set()


def markdown(records: list[Record], comparisons: list[dict[str, Any]]) -> str:
    """The whole table.md."""
    parts = ["# Results", "", "Percent; distances (HD95, ASSD) as their notes say. Bold: the best value.", ""]
    for name, group in blocks(records).items():
        metrics, tasks, rows = mean_rows(group)
        parts += [f"## {name}", "", _interval_text(group[0]), ""]
        for model in unlike(group, "revision", "model"):
            parts += [f"{model} is of other weights on some tasks than on others, so it has no mean and no rank; "
                      "probe it again on all of them.", ""]  # fmt: skip
        if len(tasks) > 1 and rows:
            parts += [f"Mean over {len(tasks)} tasks; intervals take the tasks as fixed and independent.", ""]
            published = published_rows(group[0], tasks, metrics)
            parts += [*_grid(metrics, {**rows, **published}), ""]
            notes = table1_notes(group[0].settings) if published else []
            parts += [*(f"- {note}" for note in notes), *([""] if notes else [])]
        for task in tasks:
            parts += _task_table(task, [r for r in group if r.task == task])
        parts += _differences([row for row in comparisons if row["task"] in tasks], group)
    return "\n".join(parts).rstrip() + "\n"


def _interval_text(record: Record) -> str:
    """A description of the values and intervals of a block."""
    if record.few_shot:
        return "Means over draws of training subjects; in brackets the range that holds 95 % of the draws."
    if record.joined:
        return "Means over seeds, with 95 % intervals that hold test cases and seeds."
    return "95 % bootstrap intervals over test cases."


def _difference_text(record: Record) -> str:
    """A description of the tests of a block's differences."""
    if record.few_shot:
        return "Paired by draw of the training subjects and by test case; intervals and p (Student's t) hold both."
    if record.joined:
        return "Paired by seed and test case; intervals and p (Student's t) hold both."
    return "Paired bootstrap on the same test cases."


def _grid(metrics: list[str], rows: dict[str, Cells]) -> list[str]:
    lines = ["| model | " + " | ".join(metric_title(m) for m in metrics) + " |", "|---|" + "---|" * len(metrics)]
    best = {metric: best_models(rows, metric) for metric in metrics}
    for model, cells in rows.items():
        lines.append(f"| {model} | " + " | ".join(metric_text(cells, m, model in best[m]) for m in metrics) + " |")
    return lines


def _task_table(task: str, records: list[Record]) -> list[str]:
    rows = {record.model: record_cells(record) for record in records}
    metrics = [m for m in table_metrics() if any(m in record.metrics for record in records)]
    train, test = (names_in_order(records, field)[0] for field in ("n_train", "n_test"))
    lines = [f"### {task} ({train} train, {test} test)", "", *_grid(metrics, rows), ""]
    notes = {f"**Warning**: {text}": None for record in records for text in record.warnings or []}
    notes.update({f"F1 is of the positive class, {name}": None for name in positives(records)})
    notes.update(dict.fromkeys(note for record in records for note in record.notes or []))
    undefined = [pair for record in records for pair in (record.undefined or {}).items()]
    notes.update({f"{name} undefined: {why}": None for name, why in undefined})
    notes.update(dict.fromkeys(_lack_notes(metrics, rows)))
    notes.update(dict.fromkeys(filter(None, map(_seed_note, records))))
    counts = {record.resamples or 0 for record in records if not record.few_shot}
    if counts - {RESAMPLES}:
        notes[f"intervals rest on {' and '.join(map(str, sorted(counts)))} resamples"] = None
    if unlike(records, "data", "task"):
        notes["these rows are not all of the same data, so they do not compare; probe the models again"] = None
    return lines + [f"- {note}" for note in notes] + ([""] if notes else [])


def _lack_notes(metrics: list[str], rows: dict[str, Cells]) -> list[str]:
    """For each metric that some records lack: their models, the cause and the remedy."""
    models = {metric: [model for model, cells in rows.items() if metric not in cells] for metric in metrics}
    return [
        f"{metric_title(metric)} not recorded for {', '.join(lacking)}: the record is older than the metric; remove "
        "it from records/ and run the same command again"
        for metric, lacking in models.items()
        if lacking
    ]


def _seed_note(record: Record) -> str | None:
    """How much of a joined record's uncertainty is due to seeds, and how much to the sampling of test cases."""
    entry = record.metrics.get(record.primary, {})
    if "seed_sd" not in entry:
        return None
    name = metric_title(record.primary)
    cases = f", standard error from test cases {100 * entry['case_se']:.2f}" if "case_se" in entry else ""
    return f"{record.model}: {name} over {entry['seeds']} seeds, SD {100 * entry['seed_sd']:.2f}{cases}"


def _differences(comparisons: list[dict[str, Any]], group: list[Record]) -> list[str]:
    """The table of differences between models, in the primary metric of each task."""
    primary = {record.task: record.primary for record in group}
    first = group[0]
    rows = [
        row
        for row in comparisons
        if row["metric"] == primary[row["task"]]
        and row["method"] == first.method
        and row["protocol"] == first.protocol
        and row["settings"] == first.settings
        and row["seed"] == first.seeds
    ]
    if not rows:
        return []
    lines = ["### Differences", "", f"{_difference_text(first)} p (Holm) is corrected over tasks.", ""]
    lines += ["| task | metric | A | B | seed | A - B | p (Holm) | p (DeLong) | real at 0.05 |", "|---" * 9 + "|"]
    for row in rows:
        cell = {"value": row["difference"], "low": row["low"], "high": row["high"]}
        difference = cell_text(cell, scale=metric_scale(row["metric"]))
        p = row["p_holm"]
        verdict = "no p" if p is None else "yes" if p < 0.05 else "no"
        shown, exact = p_text(p), p_text(row.get("p_delong"))
        lines.append(
            f"| {row['task']} | {metric_title(row['metric'])} | {row['model_a']} | {row['model_b']} | "
            f"{_seed_text(row['seed'])} | {difference} | {shown} | {exact} | {verdict} |"
        )
    reasons = dict.fromkeys(row["reason"] for row in rows if row.get("reason"))
    return [*lines, "", *(f"- no p: {why}" for why in reasons), *([""] if reasons else [])]


def latex(records: list[Record]) -> str:
    """The tables of means as LaTeX tabulars (booktabs), one per method."""
    parts = []
    for name, group in blocks(records).items():
        metrics, tasks, rows = mean_rows(group)
        published = published_rows(group[0], tasks, metrics)
        rows = {**rows, **published}
        best = {metric: best_models(rows, metric) for metric in metrics}
        lines = [
            f"% {name}; mean over {len(tasks)} task(s)",
            *(f"% {note}" for note in (table1_notes(group[0].settings) if published else ())),
            f"\\begin{{tabular}}{{l{'c' * len(metrics)}}}",
            "\\toprule",
        ]
        lines += ["Model & " + " & ".join(metric_title(m) for m in metrics) + r" \\", r"\midrule"]
        for model, cells in rows.items():
            texts = [_latex_cell(metric_text(cells, m), model in best[m]) for m in metrics]
            lines.append(f"{latex_text(model)} & " + " & ".join(texts) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def _latex_cell(text: str, bold: bool) -> str:
    if not bold:
        return text
    value, _, interval = text.partition(" ")
    return f"\\textbf{{{value}}} {interval}".rstrip()


def latex_text(text: str) -> str:
    """A text with LaTeX's special characters escaped."""
    signs = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}
    return "".join(signs.get(sign, sign) for sign in text)


def long_csv(records: list[Record], joined: list[Record]) -> str:
    """Every metric of every record, one per line; then means over seeds and over tasks, and the published means."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = ("model", "revision", "task", "method", "protocol", "settings", "seed", "n_train", "n_test")
    writer.writerow([*names, "metric", "value", "low", "high"])
    for record in [*records, *(record for record in joined if record.joined)]:
        seed = _seed_text(record.seeds) if record.joined else record.seed
        about = (record.model, record.revision, record.task, record.method, record.protocol, record.settings_text,
                 seed, record.n_train, record.n_test)  # fmt: skip
        for metric, entry in {**record.metrics, **robustness_entries(record)}.items():
            writer.writerow([*about, metric, entry["value"], entry.get("low"), entry.get("high")])
    means: dict[tuple, list] = {}  # by their names: published means appear with several settings, but here once
    for group in blocks(joined).values():
        metrics, tasks, rows = mean_rows(group)
        if len(tasks) > 1:
            first = group[0]
            own_way = (first.method, first.protocol, first.settings_text, _seed_text(first.seeds))
            published_way = ("published", "biovfm", "", "")
            for how, part in ((own_way, rows), (published_way, published_rows(first, tasks, metrics))):
                for model, cells in part.items():
                    for metric, cell in cells.items():
                        if cell is not None:
                            named = (model, "", f"mean of {len(tasks)} tasks", *how, "", "", metric)
                            means[named] = [cell["value"], cell["low"], cell["high"]]
    writer.writerows([*named, *cells] for named, cells in means.items())
    return stream.getvalue()
