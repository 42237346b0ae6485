"""Results in the two forms that the Hub reads: a card's model-index, and `.eval_results` for leaderboards."""

from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from biovfm_hf.results.record import Record

from ..inputs.results import interval_text, labels_of, primary_metric, record_kind, seed_text, way_text

HUB_TASKS = {
    "classification": "image-classification", "segmentation": "image-segmentation", "detection": "object-detection",
}  # fmt: skip


def eval_results(records: list[Record]) -> list[Any]:
    """The records in huggingface_hub's model-index form, one entry per metric.

    `metric_args` has the interval: `ci_low`, `ci_high` and `ci_level`, or for few-shot probes `draws_low` and so on,
    the range of 95 % of the draws. `metric_name` states method, protocol, settings and seed.
    """
    entries = []
    for record in records:
        label = labels_of([record])
        method, bound = _method_text(record), "draws" if record.few_shot else "ci"
        for name, value in record.intervals.items():
            bounds = None
            if value.low is not None and value.high is not None:
                ends = {"low": round(value.low, 6), "high": round(value.high, 6), "level": 0.95}
                bounds = {f"{bound}_{name}": end for name, end in ends.items()}
            entries.append(
                EvalResult(
                    task_type=HUB_TASKS[record_kind(record)],
                    dataset_type=record.task,
                    dataset_name=record.task,
                    dataset_split="test",
                    metric_type=(record.hub_names or {}).get(name, name),
                    metric_name=f"{label(name)} ({method})",
                    metric_value=round(value.value, 6),
                    metric_args=bounds,
                )
            )
    return entries


def _method_text(record: Record) -> str:
    way = way_text(record.protocol, record.settings_text, seed_text(record.seeds))
    return ", ".join(filter(None, (record.method, way)))


def leaderboard_yaml(records: list[Record], benchmark: str) -> str:
    """The records in the Hub's `.eval_results` form: the main metric of each task, linear probes before other methods.

    `benchmark` is the Hub dataset whose leaderboard has the tasks; method, protocol, settings, seed and
    interval go into the notes.
    """
    chosen: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.method != "linear"):
        chosen.setdefault(record.task, record)
    entries = []
    for task, record in sorted(chosen.items()):
        metric = primary_metric([record])
        notes = f"{labels_of([record])(metric)} {interval_text(record.intervals[metric], 4)}, {_method_text(record)}"
        entries.append(EvalResultEntry(benchmark, task, round(record.intervals[metric].value, 6), notes=notes))
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
