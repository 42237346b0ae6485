"""Paths that a study file names: relative to the file if they exist there, otherwise as they are."""

from pathlib import Path
from typing import Any

from ...tasks import GROUPS, read_records


def resolve(path: Path, value: str) -> str:
    """A path relative to the study file if it exists there, otherwise the value as it is (a Hub id, for instance)."""
    beside = path.parent / value
    return str(beside.resolve()) if beside.exists() else value


def resolve_config(path: Path, config: str) -> str:
    """The path of a config file; the name of a shipped config stays, whatever lies beside the study file."""
    return resolve(path, config) if config.endswith((".yaml", ".yml")) else config


def resolve_tasks(path: Path, tasks: Any) -> list[str]:
    """The names of `tasks`; paths among them become relative to the study file, known task names stay."""
    entries = tasks if isinstance(tasks, list) else str(tasks).split(",")
    names = [str(word).strip() for word in entries]
    known = {*GROUPS, *read_records()}
    return [name if name in known else resolve(path, name) for name in names if name]
