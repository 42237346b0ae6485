"""Reads the entries of a leaderboard, one per model, task and method, from results files or Hub repositories."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError, require
from biovfm_hf.hub.calls import steady
from biovfm_hf.hub.network import heed_missing_network
from biovfm_hf.reading.documents import finite, parse_yaml, read_text
from biovfm_hf.results.record import Interval, Record

from ..inputs.results import (
    Comparison,
    is_lower_better,
    labels_of,
    load_comparisons,
    load_results,
    primary_metric,
    seed_text,
)

EVAL_RESULTS = ".eval_results"
CARD_RESULTS = "results/biovfm.json"  # the records that a card was written from
REMEDY = "it holds a list of evaluation results as the Hub defines them"


@dataclass(frozen=True)
class Entry:
    """One score.

    Attributes:
        model, task, method: what was scored, on what, and how (with the protocol), as the results name them.
        metric: name of the score.
        score: with its interval if known.
        licence: of the task's data, "" if not stated.
        modality: of the task's images, "other" if not stated.
        cost: seconds, None if not stated.
        lower_is_better: whether the better of two models has the lower score.
        title: the metric's for readers.
        source: its folder, file or repository, only by name, since the page may be published.
        settings, seeds: of the method, as comparisons state them; "" if not stated.
        revision, data: digests of the weights and of the task's data, "" if not stated.
        folder: the input that has it, whose comparisons are of it.
        row, column: names in the table, see `naming.apart`.
    """

    model: str
    task: str
    method: str
    metric: str
    score: Interval
    licence: str = ""
    modality: str = "other"
    cost: float | None = None
    lower_is_better: bool = False
    title: str = "score"
    source: str = ""
    settings: str = ""
    seeds: str = ""
    revision: str = ""
    data: str = ""
    folder: str = ""
    row: str = ""
    column: str = ""

    @property
    def seed_count(self) -> int:
        """The number of seeds that it is the mean of, 0 if not stated."""
        return len(self.seeds.split(", ")) if self.seeds else 0


def read_entries(inputs: Iterable[str]) -> tuple[list[Entry], list[tuple[str, Comparison]]]:
    """The entries, and the paired differences, of results files and folders, model folders and Hub repositories.

    Each difference comes with the `folder` of the entries that it is of. Several seeds are one entry, their
    mean, which has no interval if `seeds.json` has no mean of exactly these seeds.

    Raises:
        UserError: an input is none of these, or is damaged.
    """
    entries: list[Entry] = []
    comparisons: list[tuple[str, Comparison]] = []
    for name in inputs:
        path = Path(name)
        if not path.exists():
            entries += model_entries(fetch_results(name), name, name)
        elif (path / EVAL_RESULTS).is_dir() or (path / CARD_RESULTS).is_file():
            entries += model_entries(path, path.resolve().name, str(path.resolve()))
        else:
            folder = str(path.resolve())
            entries += [_entry(record, folder) for record in _whole(load_results(path))]
            comparisons += [(folder, row) for row in load_comparisons(path if path.is_dir() else path.parent)]
    return [entry for entry in entries if entry.metric], comparisons


def model_entries(place: Path, model: str, folder: str) -> list[Entry]:
    """The entries of a model folder at `place`: its card's records, which have intervals, else its `.eval_results`."""
    if (place / CARD_RESULTS).is_file():
        records = _whole(load_results(place / CARD_RESULTS))
        return [replace(_entry(record, folder), model=model, source=model) for record in records]
    return [replace(entry, folder=folder) for entry in hub_entries(place, model)]


def _whole(records: Sequence[Record]) -> list[Record]:
    """One record for all seeds of a measurement: their mean, without interval if no joint record is known."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.likeness, []).append(record)
    return [group[0] if len({record.seed for record in group}) == 1 else _mean(group) for group in groups.values()]


def _mean(group: list[Record]) -> Record:
    shared = set.intersection(*(set(record.intervals) for record in group))
    means = {name: sum(record.intervals[name].value for record in group) / len(group) for name in shared}
    seconds = [record.seconds for record in group if record.seconds is not None]
    return replace(
        group[0], metrics={name: {"value": means[name]} for name in group[0].intervals if name in shared},
        joined=tuple(sorted(record.seed or 0 for record in group)),
        seconds=sum(seconds) if len(seconds) == len(group) else None,
    )  # fmt: skip


def way_text(method: str, protocol: str) -> str:
    """A method with its protocol: `linear, fast`."""
    return f"{method}, {protocol}" if protocol else method


def _entry(record: Record, folder: str) -> Entry:
    shown = record.intervals
    metric = record.primary if record.primary in shown else primary_metric([record]) if shown else ""
    return Entry(
        model=record.model, task=record.task, method=way_text(record.method, record.protocol), metric=metric,
        score=shown.get(metric, Interval(0.0)), licence=record.licence or "",
        modality=record.modality or "other", cost=record.seconds,
        lower_is_better=is_lower_better(metric, [record]), title=labels_of([record])(metric),
        source=Path(folder).name, settings=record.settings_text, seeds=seed_text(record.seeds),
        revision=record.revision, data=record.data or "", folder=folder,
    )  # fmt: skip


def fetch_results(repository: str) -> Path:
    """A folder with the results of a model repository on the Hub: its card's records and `.eval_results`.

    Raises:
        UserError: there is no such repository, or no network.
    """
    try:
        return fetch(repository, "model", [CARD_RESULTS, f"{EVAL_RESULTS}/*.yaml"])
    except UserError as error:
        raise UserError(f"{repository}: neither results on disk nor a model repository ({error})") from error


def fetch(repository: str, kind: str, files: list[str]) -> Path:
    """A folder with the `files` of a repository of this `kind`, fetched from the Hub.

    Raises:
        UserError: there is no such repository, or no network.
    """
    hub = require("huggingface_hub", "cards")
    heed_missing_network()
    return Path(steady(
        lambda: hub.snapshot_download(repository, repo_type=kind, allow_patterns=files), f"fetching {repository}"
    ))  # fmt: skip


def hub_entries(folder: Path, model: str) -> list[Entry]:
    """The entries of `.eval_results/*.yaml`: scores on the tasks of a benchmark on the Hub, without intervals.

    Raises:
        UserError: a file is not a list of results.
    """
    entries = []
    for path in sorted((folder / EVAL_RESULTS).glob("*.yaml")):
        rows = parse_yaml(read_text(path, 1 << 20), str(path))
        if not isinstance(rows, list):
            raise UserError(f"{path}: not a list; {REMEDY}")
        entries += [_hub_entry(row, model, f"{path.name}: entry {number}") for number, row in enumerate(rows, 1)]
    return entries


def _hub_entry(row: Any, model: str, where: str) -> Entry:
    dataset = row.get("dataset") if isinstance(row, dict) else None
    value = finite(row.get("value")) if isinstance(row, dict) else None
    if not isinstance(dataset, dict) or not dataset.get("id") or not dataset.get("task_id") or value is None:
        raise UserError(f"{model}, {where} has no dataset.id, dataset.task_id and value; {REMEDY}")
    notes = f" ({row['notes']})" if row.get("notes") else ""
    return Entry(model, str(dataset["task_id"]), str(dataset["id"]), "score", Interval(value), source=where + notes)
