"""Pretraining the models of a study, each in a process of its own under `accelerate launch`.

A process gets one config file, which holds the run's config with its overrides, and nothing of training is imported
here. Finished runs are not repeated.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import biovfm_hf
from biovfm_hf.errors import UserError
from biovfm_hf.front_door import overridden_config
from biovfm_hf.reading.documents import read_json
from biovfm_hf.writing.files import write_text

PRETRAIN = ("biovfm_hf.cli", "pretrain")  # the module and the command
ONE_PROCESS = ["--num_processes", "1", "--num_machines", "1", "--dynamo_backend", "no"]


@dataclass(frozen=True, kw_only=True)
class PretrainingRun:
    """One model to pretrain.

    Attributes:
        name: name of its folder and label of its model.
        objective: objective of the config; empty if the config file states it.
        config: YAML file or shipped name.
        data: dataset folder, Hub id or folder of images.
        overrides: config keys and values.
        plan: the file that asks for the run, which messages name.
    """

    name: str
    objective: str
    config: str
    data: str
    overrides: dict[str, Any]
    plan: Path

    @property
    def changes(self) -> dict[str, Any]:
        """The keys in which the run differs from its config, with their values."""
        return ({"method": self.objective} if self.objective else {}) | self.overrides

    def fingerprint(self) -> dict[str, Any]:
        """The settings that a finished run must match to count as this one."""
        return {"objective": self.objective, "config": self.config, "data": self.data, "overrides": self.overrides}


@dataclass(frozen=True)
class RunFiles:
    """Where a study keeps a pretraining run."""

    folder: Path  # what the run writes
    config: Path  # what it reads
    stamp: Path  # its fingerprint

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.folder / "model"

    @property
    def trained(self) -> bool:
        """Whether the model is there."""
        return (self.model / "config.json").is_file()


def run_files(out: Path, run: PretrainingRun) -> RunFiles:
    """The files of a run of the study in `out`."""
    folder = out / "runs"
    return RunFiles(folder / run.name, folder / f"{run.name}.yaml", folder / f"{run.name}.json")


def named_models(out: Path, runs: Sequence[PretrainingRun]) -> tuple[str, ...]:
    """Each model as `NAME=FOLDER`, as other commands take it."""
    return tuple(f"{run.name}={run_files(out, run).model}" for run in runs)


def planned_lines(runs: Sequence[PretrainingRun], out: Path, launch: Sequence[str]) -> list[str]:
    """What each run would read and the command that would train it, for a dry run.

    Raises:
        UserError: `pretrain` would not begin with these runs.
    """
    _waiting_configs(runs, out)
    return [line for run in runs for line in _run_lines(run, out, launch)]


def _run_lines(run: PretrainingRun, out: Path, launch: Sequence[str]) -> list[str]:
    files = run_files(out, run)
    changed = f" with {json.dumps(run.changes, default=str)}" if run.changes else ""
    return [f"# {files.config}: {run.config}{changed}", shlex.join(_command(run, files, launch))]


def _command(run: PretrainingRun, files: RunFiles, launch: Sequence[str]) -> list[str]:
    start = [sys.executable, "-m", "accelerate.commands.launch", *launch, "-m", *PRETRAIN]
    return [*start, str(files.config), "--data", run.data, "--out", str(files.folder)]


AnyRun = TypeVar("AnyRun", bound=PretrainingRun)


def pretrain(
    runs: Sequence[AnyRun],
    launch: Sequence[str],
    out: Path,
    check: Callable[[AnyRun], None] = lambda run: None,
) -> None:
    """Train the runs that are not trained yet, one after another.

    Args:
        runs: all runs of the study.
        launch: arguments of `accelerate launch`.
        out: the study's folder.
        check: is called with each run that was trained now; a UserError ends the study there.

    Raises:
        UserError: a config is refused, which is found before any run begins; a run fails; or its folder was made with
            other settings.
    """
    waiting = _waiting_configs(runs, out)
    for file, text in waiting.items():
        write_text(file, text)
    for number, run in enumerate(runs, 1):
        place = f"[{number}/{len(runs)}] {run.name}"
        files = run_files(out, run)
        if files.config not in waiting:
            print(f"{place}: trained already", flush=True)
            continue
        command = _command(run, files, launch)
        print(f"{place}: {shlex.join(command)}", flush=True)
        _train(run, files, command)
        check(run)


def _waiting_configs(runs: Sequence[PretrainingRun], out: Path) -> dict[Path, str]:
    """The config file of each run that is not trained yet, with its text, which is checked here."""
    waiting = [run for run in runs if not _finished(run, run_files(out, run))]
    return {run_files(out, run).config: _config_text(run) for run in waiting}


def _config_text(run: PretrainingRun) -> str:
    try:
        return overridden_config(run.config, run.changes)
    except UserError as error:
        raise UserError(f"{run.plan}: {run.name}: {error}") from error


def _finished(run: PretrainingRun, files: RunFiles) -> bool:
    if not (files.stamp.is_file() and files.trained):
        return False
    if read_json(files.stamp) != run.fingerprint():
        raise UserError(f"{files.folder} was trained with other settings than the study file gives now; "
                        "move it away, or use another --out")  # fmt: skip
    return True


def _train(run: PretrainingRun, files: RunFiles, command: list[str]) -> None:
    write_text(files.stamp, json.dumps(run.fingerprint(), indent=1) + "\n")
    status = subprocess.run(command, check=False, env=_environment()).returncode
    if status or not files.trained:
        raise UserError(f"pretraining {run.name} ended with status {status} and left no model; correct the "
                        "error above, and run the same command again")  # fmt: skip


def _environment() -> dict[str, str]:
    """This process's environment, extended so that child processes find this package even in a bare checkout."""
    places = [str(Path(biovfm_hf.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
