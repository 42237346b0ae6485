"""Reads results files, and compares them with published numbers if they are comparable."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import finite, read_json
from biovfm_hf.results.published import table1, table1_notes
from biovfm_hf.results.record import MEANS_FILE, RUN_AGAIN, Interval, Record, settings_text

POSITIVE_LABELS = {"f1_macro": "F1 (positive class)", "recall_macro": "Recall (positive class)"}
SIGNIFICANT = 0.05
FEWEST_COLUMNS = 6  # of a table of scores, if so many metrics were measured


@dataclass(frozen=True)
class Comparison:
    """A paired difference of two models on one task: A minus B, with its 95% interval, p and Holm-adjusted p.

    `method`, `protocol`, `settings` and `seed` (or all seeds) identify the records; `reason` says why there is no p;
    `lower_is_better` whether the better model has the lower value. `title` is the metric's for readers.
    """

    task: str
    method: str
    protocol: str
    settings: str
    seed: str
    metric: str
    model_a: str
    model_b: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    reason: str = ""
    lower_is_better: bool = False
    title: str = ""

    @property
    def is_real(self) -> bool:
        """Whether the difference is significant: its adjusted p is below .05."""
        return self.p_holm is not None and self.p_holm < SIGNIFICANT

    @property
    def favours_a(self) -> bool:
        """Whether A is the better one."""
        return (self.difference > 0) != self.lower_is_better


def interval_text(entry: Interval | None, digits: int = 3) -> str:
    """'0.912 [0.881, 0.940]', the value only if it has no bounds, or an en dash for a metric that was not measured."""
    if entry is None:
        return "–"
    if entry.low is None or entry.high is None:
        return f"{entry.value:.{digits}f}"
    return f"{entry.value:.{digits}f} [{entry.low:.{digits}f}, {entry.high:.{digits}f}]"


def warnings_of(records: Iterable[Record]) -> dict[str, list[str]]:
    """The records' distinct warnings, each with its tasks; shared patients first, since they make scores too good."""
    records = list(records)
    tasks: dict[str, dict[str, None]] = {}
    for record in records:
        for text in record.warnings or ():
            tasks.setdefault(text, {})[record.task] = None
    leaks = leaks_of(records)
    return {text: list(tasks[text]) for text in sorted(tasks, key=lambda text: text not in leaks)}


def leaks_of(records: Iterable[Record]) -> set[str]:
    """The records' warnings by which patients may be in both train and test."""
    return {text for record in records for text in record.leaks or ()}


def labels_of(records: Iterable[Record]) -> Callable[[str], str]:
    """A function from a metric's name to its title: the one that the records state, else the name in words.

    Where all tasks are binary, macro averages are the positive class's.
    """
    records = list(records)
    stated = {name: title for record in records for name, title in (record.titles or {}).items()}
    averaged = [record.positive for record in records if "f1_macro" in record.metrics]
    if averaged and all(averaged):
        stated |= POSITIVE_LABELS
    return lambda name: stated.get(name) or _label(name)


def _label(name: str) -> str:
    return name.replace("_", " ")


def positive_classes(records: Iterable[Record]) -> dict[str, str]:
    """{task: positive class} of the binary tasks."""
    return {record.task: str(record.positive) for record in records if record.positive is not None}


def load_results(path: Path) -> list[Record]:
    """The records of a results file, or of `results.json` in a results folder; several seeds as their mean.

    The means are those of `seeds.json` beside it, with intervals that cover seeds. Seeds without a
    mean there stay separate records.

    Raises:
        UserError: no such file, a record lacks model, task, method or metrics, or a value is not a finite number.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give the --out folder of biovfm probe")
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path}: no results.json there; write it with: biovfm probe --model M --tasks T --out {path}")
    means = file.with_name(MEANS_FILE)
    return _joined(_records(file), _records(means) if means.is_file() else [])


def _records(file: Path) -> list[Record]:
    rows = read_json(file)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{file}: not a results file (a JSON list of records is expected); run biovfm probe again")
    return [_record(row, f"{file}: record {number}") for number, row in enumerate(rows, start=1)]


def _joined(records: list[Record], means: list[Record]) -> list[Record]:
    """Put each mean in the place of its seeds, unless a seed was added or is gone since the mean was written."""
    seeds: dict[str, list[int]] = {}
    for record in records:
        seeds.setdefault(record.likeness, []).append(record.seed or 0)
    known = {mean.likeness: mean for mean in means if list(mean.joined) == sorted(seeds.get(mean.likeness, []))}
    rows: dict[str | int, Record] = {}
    for number, record in enumerate(records):
        mean = known.get(record.likeness)
        rows.setdefault(number if mean is None else record.likeness, mean or record)
    return list(rows.values())


def _record(row: Any, where: str) -> Record:
    record = Record.read(row, where)
    if not record.metrics:
        raise UserError(f"{where} has no metrics; {RUN_AGAIN}")
    return record


def seed_text(value: Any) -> str:
    """A seed, or the list of seeds of a mean, as text: `0, 1, 2`; empty if there is none."""
    return ", ".join(str(number) for number in (value if isinstance(value, list) else [value]) if number is not None)


def way_text(protocol: str, settings: str, seed: str) -> str:
    """The measurement besides its method, in words: `fast protocol, features both, seeds 0, 1`."""
    parts = (protocol and f"{protocol} protocol", settings, seed and f"seed{'s' if ',' in seed else ''} {seed}")
    return ", ".join(filter(None, parts))


def results_rows(records: Iterable[Record], model: str) -> list[dict[str, Any]]:
    """The records for the results file beside a card, under the name `model`, readable by `load_results`."""
    return [
        {
            "model": model,
            "revision": record.revision,
            "task": record.task,
            "data": record.data,
            "method": record.method,
            "protocol": record.protocol,
            "seed": record.seed,
            "kind": record.kind or None,
            "primary": record.primary or None,
            "lower_is_better": record.lower_is_better or [],
            "titles": record.titles,
            **{name: value for name in ("columns", "hub_names") if (value := getattr(record, name))},
            "positive": record.positive,
            "few_shot": record.few_shot,
            "metrics": {name: asdict(interval) for name, interval in record.intervals.items()},
            "n_train": record.n_train,
            "n_test": record.n_test,
            "seconds": record.seconds,
            "licence": record.licence,
            "modality": record.modality or None,
            "settings": record.settings_text,
            "warnings": record.warnings or [],
            "leaks": record.leaks or [],
            **({"joined": list(record.joined)} if record.joined else {}),
        }
        for record in records
    ]


def load_comparisons(folder: Path) -> list[Comparison]:
    """The paired differences of a results folder, empty without comparisons.json.

    Of a difference over several seeds only the mean is given, as of the scores, without those of single seeds.

    Raises:
        UserError: the file is not a list of comparisons.
    """
    file = folder / "comparisons.json"
    if not file.is_file():
        return []
    rows = read_json(file)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{file}: not a list of comparisons; run biovfm probe again")
    return [
        Comparison(
            **{
                name: str(row.get(name) or "")
                for name in ("task", "method", "metric", "model_a", "model_b", "protocol")
            },
            settings=settings_text(row.get("settings")),
            seed=seed_text(row.get("seed")),
            difference=float(row["difference"]),
            low=finite(row.get("low")),
            high=finite(row.get("high")),
            p=finite(row.get("p")),
            p_holm=finite(row.get("p_holm")),
            reason=str(row.get("reason") or ""),
            lower_is_better=bool(row.get("lower_is_better")),
            title=str(row.get("title") or _label(str(row.get("metric") or ""))),
        )
        for row in _over_seeds([row for row in rows if finite(row.get("difference")) is not None])
    ]


def _over_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without those of a single seed that a mean of the same two models covers."""
    means = [row for row in rows if isinstance(row.get("seed"), list)]
    covered = {(_likeness(row), str(seed)) for row in means for seed in row["seed"]}
    return [row for row in rows if (_likeness(row), str(row.get("seed"))) not in covered]


def _likeness(row: dict[str, Any]) -> str:
    names = ("task", "method", "protocol", "settings", "metric", "model_a", "model_b")
    return json.dumps([row.get(name) for name in names], sort_keys=True)


def record_kind(record: Record) -> str:
    """`segmentation`, `detection` or `classification`, by the task's kind."""
    return record.kind if record.kind in ("segmentation", "detection") else "classification"


def metric_order(records: Iterable[Record]) -> list[str]:
    """All metric names in `records`: first those with a column, then in the order of their titles, then by name."""
    records = list(records)
    names = {name for record in records for name in record.intervals}
    stated = [name for record in records for name in record.columns or ()]
    stated += [name for record in records for name in record.titles or ()]
    return [name for name in dict.fromkeys([*stated, *sorted(names)]) if name in names]


def main_metrics(records: Iterable[Record]) -> list[str]:
    """The metrics of a table of `records`: those with a column, at least the first six, and the records' main ones."""
    records = list(records)
    named = {name for record in records for name in (*(record.columns or ()), record.primary)}
    return [name for place, name in enumerate(metric_order(records)) if place < FEWEST_COLUMNS or name in named]


def is_lower_better(metric: str, records: Iterable[Record]) -> bool:
    """Whether the better of two models has the lower value of a metric, as the records state it."""
    return any(metric in (record.lower_is_better or ()) for record in records)


def primary_metric(records: Iterable[Record]) -> str:
    """The metric that charts and ranks use: of those that the most records have, the one that most name as theirs."""
    records = list(records)
    counts = Counter(name for record in records for name in record.intervals)
    named = Counter(record.primary for record in records)
    return max(metric_order(records), key=lambda name: (counts[name], named[name]))


def is_main(row: Comparison, records: Iterable[Record]) -> bool:
    """Whether a comparison is in the metric that a record of its task names as its own."""
    return any(row.metric == record.primary for record in records if record.task == row.task)


def published_comparison(records: list[Record]) -> tuple[dict[str, Interval] | None, dict[str, Any], str]:
    """The mean over the 12 MedMNIST tasks in percent, the published table, and, without a mean, the reason.

    Results are comparable if they have the published method and protocol, and each of the 12 tasks exactly once. The
    bounds are the means of the tasks' bounds, which is wider than an interval of the mean. `records` are of one model.
    """
    table = table1()
    same = [r for r in records if r.method == table["method"] and r.protocol == table["protocol"]]
    by_task = {r.task.lower(): r for r in same}
    missing = [task for task in table["tasks"] if task not in by_task]
    if len(missing) == len(table["tasks"]):
        return None, table, "none of these results is a linear probe of a MedMNIST task under the paper's protocol"
    if missing:
        done = len(table["tasks"]) - len(missing)
        return None, table, f"the published rows are means of 12 MedMNIST tasks; {done} of them are measured here"
    if len(same) != len(by_task):
        return None, table, "a MedMNIST task occurs twice in the results (several settings, seeds or revisions)"
    mean: dict[str, Interval] = {}
    for name in table["metrics"]:
        entries = [by_task[task].intervals.get(name) for task in table["tasks"]]
        if all(entry is not None and entry.low is not None and entry.high is not None for entry in entries):
            mean[name] = Interval(*(_mean_percent(entries, field) for field in ("value", "low", "high")))
    if not mean:
        return None, table, "the results lack the published metrics with intervals"
    return mean, {**table, "notes": table1_notes(same[0].settings)}, ""


def _mean_percent(entries: list[Any], field: str) -> float:
    return 100 * sum(getattr(entry, field) for entry in entries) / len(entries)
