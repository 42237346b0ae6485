"""Probing the models of a study: the options of `biovfm probe` for them, and which records are the study's own."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from biovfm_hf.results.record import Record

from ...commands.probe_options import RunOptions, options_class
from ...probes.probe import ProbeRun
from .paths import resolve, resolve_tasks
from .pretraining import PretrainingRun, named_models

SCIENTIFIC = re.compile(r"[0-9.]+[eE][-+]?[0-9]+")


def probe_values(path: Path, probe: dict[str, Any]) -> dict[str, Any]:
    """The probe's options by their Python names, with paths of data and tasks relative to the study file.

    Numbers such as 1e-3, which YAML reads as text, become numbers.
    """
    values = {
        str(key).replace("-", "_"): float(value) if isinstance(value, str) and SCIENTIFIC.fullmatch(value) else value
        for key, value in probe.items()
    }
    places = {"data": resolve(path, str(probe.get("data", "."))), "tasks": resolve_tasks(path, probe["tasks"])}
    return {**values, **places}


def probe_options(runs: Sequence[PretrainingRun], values: Mapping[str, Any], out: Path) -> RunOptions:
    """The options of `biovfm probe` for all trained models of the study in `out`, with the `probe_values`.

    Raises:
        UserError: a value is wrong.
    """
    return options_class()(model=named_models(out, runs), out=out / "results", **values)


def by_method(records: Iterable[Record], runs: list[ProbeRun], tasks: list[str]) -> dict[str, list[Record]]:
    """The study's own records by method (fewshot-4 and fewshot-16 are two methods).

    A results folder keeps the records of every run of the study, including runs with other tasks, seeds or settings.
    """
    groups: dict[str, list[Record]] = {run.probe.record_name: [] for run in runs}
    identities = [(run.probe.record_name, run.protocol, run.seed, run.settings) for run in runs]
    for record in records:
        identity = (record.method, record.protocol, record.seed, record.settings)
        if identity in identities and record.task in tasks:
            groups[record.method].append(record)
    return groups
