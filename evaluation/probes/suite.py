"""Runs methods over models and tasks and makes one record for each; resumable, and shared among processes."""

import hashlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.results.record import Record

from ..encoders.device import peak_memory, reset_peak
from ..encoders.encoder import Encoder
from ..encoders.load import check_labels, load_encoder, split_label
from ..encoders.processes import process_group
from ..pictures.figure import discard
from ..results.records import (
    claimed,
    finished_record,
    measured_otherwise,
    merge_records,
    record_key,
    write_record,
)
from ..statistics.metrics import hub_names, is_lower_better, table_metrics, titles
from ..statistics.split import checked_split
from ..statistics.thresholds import choose_thresholds
from ..tasks import SPLITS, Task
from ..tasks.boxes import boxes_digest
from .probe import Answer, ProbeRun, Trial


class Job(NamedTuple):
    """A record to make: a model (by the name that loads it), a run and a task."""

    model: str
    run: ProbeRun
    task: Task


class Failure(NamedTuple):
    """A job whose record could not be made, and why; `is_load` if the model could not even be loaded."""

    job: Job
    reason: str
    is_load: bool = False

    def __str__(self) -> str:
        label, method = split_label(self.job.model)[0], self.job.run.probe.record_name
        return f"{label} on {self.job.task.name} by {method}: {self.reason}"


Claim = Callable[[str], AbstractContextManager[bool]]  # record key -> whether this process should make the record


def run_suite(models: list[str], tasks: list[Task], runs: list[ProbeRun], out: Path, cache: Path) -> list[Record]:
    """Make every record that is missing in `out`, and return all records in it.

    If one model fails on one task, the others continue; the failure is raised at the end.

    Processes that work on one folder share its records: each takes the next record that no other process works on. One
    process makes a whole record, even with fine-tuning. So a record does not depend on the number of processes, and if
    one process fails the others continue. Processes that a launcher started together embed the images of a task
    together and then work separately.

    Args:
        models: names for `encoders.load_encoder`.
        tasks: opened tasks.
        runs: one per method and seed; each applies to the tasks that it suits.
        out: the results folder.
        cache: folder of the cached features.

    Raises:
        UserError: two models share a label, or some records failed; this is raised after the others were made.
    """
    check_labels(models)
    for model in models[1:]:  # report models that cannot be loaded now instead of after hours of work on others
        load_encoder(model, trust_remote_code=runs[0].trust_remote_code)
    jobs = [Job(model, run, task) for model in models for run in runs for task in tasks if run.probe.suits(task)]
    failures = run_jobs(jobs, out, cache)
    records = merge_records(out)
    if failures:
        reasons = len({failure.reason for failure in failures})
        several = f", for {reasons} reasons (all are printed above)" if reasons > 1 else ""
        raise UserError(f"{len(failures)} of the records could not be made{several}: {failures[0]}")
    return records


def run_jobs(jobs: list[Job], out: Path, cache: Path) -> list[Failure]:
    """Make the records of jobs, model by model, shared among processes as in `run_suite`.

    Returns:
        The failures. Nothing is raised.
    """
    processes, failures = process_group(), []
    if processes.size > 1:
        failures += _run_jobs([job for job in jobs if not job.run.probe.trains], out, cache)[0]
    shared = [job for job in jobs if processes.size == 1 or job.run.probe.trains]
    shared_failures, busy = _run_jobs(shared, out, cache, partial(claimed, out, wait=False))
    failures += shared_failures + _run_jobs(busy, out, cache, partial(claimed, out, wait=True))[0]
    processes.wait()
    return failures


def _run_jobs(jobs: list[Job], out: Path, cache: Path, claim: Claim | None = None) -> tuple[list[Failure], list[Job]]:
    """Make the records of jobs that can be claimed. Returns the failures, and the jobs that other processes have."""
    failures: list[Failure] = []
    busy: list[Job] = []
    loaded: dict[tuple[str, str], Encoder | UserError] = {}
    for job in jobs:
        model, run, task = job
        loaded = {key: encoder for key, encoder in loaded.items() if key[0] == model}
        try:
            encoder = _loaded(model, run, loaded)
            if make_record(Trial(encoder, task, run, cache), out, claim) is None:
                busy.append(job)
        except (UserError, RuntimeError) as error:  # torch raises RuntimeError, if memory runs out for instance
            if not isinstance(error, UserError):
                traceback.print_exception(error)
            failure = Failure(job, str(error), error is loaded.get((model, run.preprocess)))
            if failure.reason not in {earlier.reason for earlier in failures}:
                _say(f"error: {failure}", sys.stderr)
            failures.append(failure)
    return failures, busy


def _loaded(model: str, run: ProbeRun, loaded: dict[tuple[str, str], Encoder | UserError]) -> Encoder:
    """A model as a run reads it. `loaded` keeps the model, or the reason why it cannot be loaded.

    Raises:
        UserError: the model cannot be loaded.
    """
    key = (model, run.preprocess)
    if key not in loaded:
        try:
            loaded[key] = load_encoder(
                model, run.device, run.preprocess, run.compile, run.precision, run.trust_remote_code
            )
        except UserError as error:
            loaded[key] = error
    encoder = loaded[key]
    if isinstance(encoder, UserError):
        raise encoder
    return encoder


def make_record(trial: Trial, out: Path, claim: Claim | None = None) -> Record | None:
    """Probe one model on one task by one method, unless the record exists.

    Without a `claim`, the processes that were started together make the record together.

    Returns:
        The record, or None if another process has the claim.

    Raises:
        UserError: the method does not apply to the task, or something that it needs is missing or broken.
    """
    encoder, task, probe = trial.encoder, trial.task, trial.run.probe
    if not probe.suits(task):
        raise UserError(f"task {task.name} is of kind {task.record.kind}; method {probe.name} does not apply to it")
    identity = identify(trial)
    if trial.run.save_masks and probe.saves_masks:
        trial = replace(trial, masks=out / "masks" / record_key(identity))
    with claim(record_key(identity)) if claim else nullcontext(True) as mine:
        if not mine:
            return None
        known = finished_record(out, identity)
        if claim is None:  # made together: processes wait for each other's share of the images
            known = process_group().agree(known)
        if known is not None and (trial.masks is None or trial.masks.is_dir()):
            _say(f"have  {encoder.name}  {task.name}  {probe.record_name}")
            return known
        check_validation(trial)
        begun = time.perf_counter()
        reset_peak(encoder.device)
        answer = probe.run(trial)
        seconds = round(time.perf_counter() - begun, 3)
        record = complete(identity, trial, answer, seconds)
        if measured_otherwise(out, identity):  # then the pictures are outdated too
            for kind in ("attention", "tsne", "pca"):
                discard(out, kind, encoder.name, task.name)
        record = write_record(out, record, answer.arrays)
    _say(f"done  {encoder.name}  {task.name}  {probe.record_name}  {headline(record)}")
    for warning in answer.warnings:
        _say(f"WARNING: {encoder.name} on {task.name}: {warning}", sys.stderr)
    return record


def complete(identity: Record, trial: Trial, answer: Answer, seconds: float) -> Record:
    """The complete record of a probe's answer, which took `seconds`."""
    encoder, task, cases = trial.encoder, trial.task, trial.task.splits["test"].num_cases
    return replace(
        identity,
        kind=task.record.kind,
        primary=answer.primary or task.record.metric,
        classes=list(task.record.classes),
        positive=task.record.positive,
        few_shot=trial.run.probe.few_shot,
        metrics=answer.metrics,
        undefined=answer.undefined,
        thresholds=answer.thresholds,
        chosen=answer.chosen,
        further=answer.further,
        lower_is_better=[name for name in answer.metrics if is_lower_better(name)] or None,
        titles=titles(answer.metrics) or None,
        hub_names=hub_names(answer.metrics) or None,
        columns=[name for name in table_metrics() if name in answer.metrics] or None,
        warnings=[
            *task.warnings,
            *(answer.warnings or _flat_intervals(answer.metrics, task.splits["test"].num_cases)),
        ],
        leaks=list(task.leaks) or None,
        notes=[*encoder.notes, *feature_notes(trial), *answer.notes],
        n_train=task.splits["train"].num_cases,
        n_test=cases,
        seconds=seconds,
        costs={**costs(encoder, answer), "seconds": seconds},
        licence=task.record.licence,
        modality=task.record.modality,
        software=software(),
    )


def _flat_intervals(metrics: Mapping[str, Any], cases: int) -> list[str]:
    """A warning if an interval has no width: few cases that are all right look certain, and are not."""
    entries = [entry for entry in metrics.values() if isinstance(entry, Mapping) and entry.get("low") is not None]
    if all(entry["low"] != entry["high"] for entry in entries):
        return []
    return [f"intervals without width: all resamples of the {cases} test cases agree, which a few cases often do"]


def _say(line: str, stream: TextIO | None = None) -> None:
    """Print a line in a single write, so that lines of processes that share a pipe do not mix."""
    print(f"{line}\n", end="", file=stream, flush=True)


def feature_notes(trial: Trial) -> list[str]:
    """Notes on the vector that was read, if the model's card determined it."""
    if trial.run.settings.get("features") != "card":
        return []
    return [f"features card: {trial.encoder.features}"]


def costs(encoder: Encoder, answer: Answer) -> dict[str, Any]:
    """The numbers of trained weights and of all weights that took part, their ratio, and the peak memory."""
    frozen = sum(parameter.numel() for parameter in encoder.module.parameters())
    parameters = frozen + answer.trained if answer.parameters is None else answer.parameters
    return {
        "trained_parameters": answer.trained,
        "parameters": parameters,
        "share": answer.trained / parameters if parameters else 0.0,
        **peak_memory(encoder.device),
    }


def check_validation(trial: Trial) -> None:
    """Raise a UserError early if validation has only one class, so that no threshold can be chosen."""
    task, labels = trial.task, trial.task.splits["val"].labels
    if labels is not None:
        unscored = np.zeros((len(labels), task.num_outputs))
        choose_thresholds(checked_split(task.record.kind, labels, unscored, "val"), trial.run.probe.thresholds)


def identify(trial: Trial) -> Record:
    """The first fields of a record: those that name it, and the digest of its data."""
    run = trial.run
    return Record(
        model=trial.encoder.name,
        revision=trial.encoder.revision,
        task=trial.task.name,
        data=task_digest(trial.task),
        method=run.probe.record_name,
        protocol=run.protocol,
        seed=run.seed,
        settings=run.settings,
        resamples=run.resamples,
    )


def software() -> dict[str, str]:
    """Versions of this package and of those that results depend on most; a bare checkout has none of its own."""
    versions = {}
    for name in ("biovfm-hf", "torch", "transformers"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def task_digest(task: Task) -> str:
    """A short digest of all images, masks and labels of a task; changed data gives a new record."""
    digest = hashlib.blake2b(digest_size=6)
    for name in SPLITS:
        split = task.splits[name]
        digest.update(split.images.fingerprint().encode())
        digest.update(b"" if split.labels is None else split.labels.tobytes())
        digest.update(b"" if split.masks is None else split.masks.fingerprint().encode())
        digest.update(b"" if split.boxes is None else boxes_digest(split.boxes).encode())
    return digest.hexdigest()


def headline(record: Record) -> str:
    """The primary metric of a record with its interval, for the screen."""
    name = record.primary
    entry = record.metrics.get(name)
    if entry is None:
        return f"{name} undefined: {(record.undefined or {}).get(name, 'see the record')}"
    if entry.get("low") is None or entry.get("high") is None:
        return f"{name} {entry['value']:.4f}"
    return f"{name} {entry['value']:.4f} ({entry['low']:.4f}, {entry['high']:.4f})"
