"""Tasks: records in `records/`, readers of the sources' official layouts, and users' own folders and lists."""

from .catalog import GROUPS, open_task, read_records, resolve_names
from .task import KINDS, SPLITS, Split, Task, TaskRecord

__all__ = [
    "GROUPS",
    "KINDS",
    "SPLITS",
    "Split",
    "Task",
    "TaskRecord",
    "open_task",
    "read_records",
    "resolve_names",
]
