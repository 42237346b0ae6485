"""Reads the files in which the builder notes its state; whatever cannot be read counts as not made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def read_state(path: Path, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """The JSON object in a file; None if it is missing, damaged, or lacks one of these `fields` with its type."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    return content if all(isinstance(content.get(name), kind) for name, kind in fields.items()) else None


def row_groups(path: Path) -> int | None:
    """How many row groups a Parquet file has; None if it is missing, or its end is damaged."""
    try:
        return int(pq.read_metadata(path).num_row_groups)
    except (OSError, pa.ArrowException):
        return None


def is_arrow_file(path: Path) -> bool:
    """Whether an Arrow file is there with its end, which is written last."""
    try:
        with pa.memory_map(str(path)) as file:
            pa.ipc.open_file(file)
    except (OSError, pa.ArrowException):
        return False
    return True
