"""What `biovfm probe` can list: the named tasks, and the short names of encoders."""

from typing import Any

from ..encoders.lineup import LINEUP
from ..tasks import GROUPS, read_records


def list_tasks() -> list[dict[str, Any]]:
    """Name, kind, licence, title and groups of each task record."""
    groups = {name: [group for group, names in GROUPS.items() if name in names] for name in read_records()}
    return [
        {"name": record.name, "kind": record.kind, "licence": record.licence, "title": record.title,
         "groups": groups[record.name]}
        for record in read_records().values()
    ]  # fmt: skip


def list_encoders() -> list[dict[str, Any]]:
    """For each short name: what it loads, millions of parameters, input, feature, licence, access and paper."""
    return [
        {"name": name, "loads": entry.source, "parameters_millions": entry.parameters, "input": entry.size,
         "feature": entry.feature, "features": entry.features, "licence": entry.licence,
         "access": entry.access or "open", "paper": f"arXiv {entry.paper}"}
        for name, entry in LINEUP.items()
    ]  # fmt: skip


LISTS = {"--list-tasks": list_tasks, "--list-encoders": list_encoders}


def list_line(row: dict[str, Any]) -> str:
    """A row of a list as a line for the screen, its name first."""
    name, *rest = (", ".join(value) if isinstance(value, list) else str(value) for value in row.values())
    return f"{name:<18} {'  '.join(filter(None, rest))}"
