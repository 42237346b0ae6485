"""Items that consist of scores: the records of their cells, the numbers, and tests of differences between rows."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.results.published import Place
from biovfm_hf.results.record import Record
from biovfm_hf.results.significance import holm

from ..encoders.load import split_label
from ..encoders.processes import process_group
from ..probes.suite import Failure, Job, run_jobs
from ..results.comparisons import ResampledMetrics, enough_resamples, mean_difference
from ..results.records import merge_records
from ..results.seeds import over_seeds
from ..results.table import NOT_RECORDED, mean_cell
from .bench import Bench
from .numbers import Number, Numbers, Outcome
from .pictures import PICTURES
from .recipe import Cell, Recipe
from .tables import write_tables

# The radiology study's score can rise with false positives; Dice, averaged over cases, cannot.
TESTED_BY = {"radiology": "dice"}
Plan = Mapping[Place, tuple[list[Job], list[str]]]  # {place: (jobs of the cell, its missing parts)}


def produce(recipe: Recipe, bench: Bench) -> Outcome:
    """Make the missing records, then write table, tests and pictures to the item's folder."""
    plan = {place: plan_cell(cell, recipe, bench) for place, cell in recipe.cells.items()}
    failures = run_jobs(ordered(plan), bench.out, bench.options.features_folder)
    if not process_group().takes(0):
        return Outcome(recipe.name, bench.out / recipe.name, 0, 0)
    numbers = read_numbers(recipe, plan, failures, bench)
    numbers = replace(numbers, tests=differences(numbers, bench))
    folder = bench.out / recipe.name
    write_tables(numbers, bench.options.settings, folder)
    failed = [str(failure) for failure in failures if not failure.is_load]
    lacking = [
        f"{reason} ({len(places)} numbers)" for reason, places in numbers.missing.items() if reason not in failed
    ]
    for name, panels in recipe.pictures.items():
        try:
            PICTURES[name](numbers, panels, bench, folder)
        except UserError as error:
            lacking.append(f"picture {name}: {error}")
    made = sum(number.value is not None for number in numbers.cells.values())
    return Outcome(recipe.name, folder, made, len(numbers.cells), lacking, failed)


def plan_cell(cell: Cell, recipe: Recipe, bench: Bench) -> tuple[list[Job], list[str]]:
    """The jobs of a cell's available models and tasks, and reasons for the missing ones."""
    lacking: list[str] = []
    try:
        model = bench.model(cell.model, recipe)
    except UserError as error:
        model, lacking = "", [f"{cell.model}: {error}"]
    jobs = []
    for name in cell.tasks:
        try:
            task = bench.task(name, recipe)
            jobs += [Job(model, run, task) for run in bench.runs(cell, task) if model]
        except UserError as error:
            lacking.append(str(error))
    return jobs, lacking


def ordered(plan: Plan) -> list[Job]:
    """Every job once; jobs of one model are together, because one encoder is in memory at a time."""
    jobs = {(job.model, job.run, job.task.name): job for jobs, _ in plan.values() for job in jobs}
    models = list(dict.fromkeys(job.model for job in jobs.values()))
    return sorted(jobs.values(), key=lambda job: models.index(job.model))


def read_numbers(recipe: Recipe, plan: Plan, failures: list[Failure], bench: Bench) -> Numbers:
    """The numbers of a recipe, from the existing records."""
    records = {_identity(record): record for record in merge_records(bench.out)}
    reasons = {_job_identity(failure.job): _reason(failure) for failure in failures}
    cells = {}
    for place, (jobs, lacking) in plan.items():
        wrong = [*lacking, *(reasons[key] for key in map(_job_identity, jobs) if key in reasons)]
        number = Number(printed=recipe.printed.get(place), missing=tuple(dict.fromkeys(wrong)))
        if not wrong and all(_job_identity(job) in records for job in jobs):
            number = _number(recipe.cells[place], [records[_job_identity(job)] for job in jobs], number, bench)
        cells[place] = number
    return Numbers(recipe, cells)


def _reason(failure: Failure) -> str:
    """Why a record is missing; a model that cannot be loaded is reported once instead of for each task."""
    return f"{split_label(failure.job.model)[0]}: {failure.reason}" if failure.is_load else str(failure)


def _identity(record: Record) -> str:
    named = (record.model, record.task, record.method, record.protocol, record.seed)
    return json.dumps([*named, record.settings], sort_keys=True)


def _job_identity(job: Job) -> str:
    run = job.run
    named = (split_label(job.model)[0], job.task.name, run.probe.record_name, run.protocol, run.seed)
    return json.dumps([*named, run.settings], sort_keys=True)


def _number(cell: Cell, records: list[Record], number: Number, bench: Bench) -> Number:
    """Our number from its records: the mean over tasks of each task's mean over seeds."""
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    kept = tuple(tuple(group) for group in by_task.values())
    if cell.is_cost:
        name = cell.metric.removeprefix("costs.")
        return replace(number, value=float(np.mean([(record.costs or {})[name] for record in records])), records=kept)
    entries = [record.metrics.get(cell.metric) for record in over_seeds(bench.out, records, bench.options.resamples)]
    mean = mean_cell(entries)
    if mean is None:
        gaps = [gap for record in records if (gap := metric_gap(record, cell.metric))]
        return replace(number, missing=tuple(f"{cell.metric} is {gap}" for gap in dict.fromkeys(gaps)))
    return replace(number, **mean, records=kept)


def metric_gap(record: Record, metric: str) -> str:
    """Why a record has no value of a metric; empty if it has one."""
    if metric in (record.undefined or {}):
        return f"undefined: {(record.undefined or {})[metric]}"
    return "" if metric in record.metrics else NOT_RECORDED


def differences(numbers: Numbers, bench: Bench) -> list[dict[str, Any]]:
    """Compare every row with the rows that the recipe names, in each column, on the same test cases.

    The p-values have Holm's correction over all tests of the item.
    """
    recipe = numbers.recipe
    pairs = [
        (first, second, column)
        for first in recipe.against
        for second in recipe.rows
        if first != second and not (second in recipe.against and recipe.rows.index(second) < recipe.rows.index(first))
        for column in recipe.columns
        if all(_is_tested(numbers, (row, column)) for row in (first, second))
    ]
    draws = ResampledMetrics(bench.out, enough_resamples(len(pairs), bench.options.resamples))
    tests = [_tested(numbers, *pair, draws) for pair in pairs]
    adjusted = holm(np.array([np.nan if test["p"] is None else test["p"] for test in tests], float))
    return [test | {"p_holm": None if np.isnan(p) else float(p)} for test, p in zip(tests, adjusted, strict=True)]


def _is_tested(numbers: Numbers, place: Place) -> bool:
    number = numbers.cells.get(place)
    return number is not None and number.value is not None and not numbers.recipe.cells[place].is_cost


def _tested(numbers: Numbers, first: str, second: str, column: str, draws: ResampledMetrics) -> dict[str, Any]:
    first_cell, second_cell = (numbers.cells[row, column] for row in (first, second))
    metric = numbers.recipe.cells[first, column].metric
    metric = TESTED_BY.get(metric, metric)
    entry = mean_difference(draws, first_cell.records, second_cell.records, metric)
    return {"column": column, "metric": metric, "a": first, "b": second, **entry}
