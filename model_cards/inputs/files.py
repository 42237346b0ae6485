"""Bounded readers of text files from other stages: cards, metrics, tables."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import read_text

MAX_README_BYTES = 8 * 2**20
MAX_LINE_BYTES = 2**20


def read_readme(path: Path) -> str:
    """The text of a README.md of at most 8 MiB, "" if there is none.

    Raises:
        UserError: as `read_text`.
    """
    return read_text(path, MAX_README_BYTES) if path.is_file() else ""


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of `path`, one per line, read as a stream. A torn last line (a run that was killed) is skipped.

    Raises:
        UserError: the file cannot be read, a line is over 1 MiB, or a line other than the last is not an object.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(f"{path}: line {number} is longer than 1 MiB, so this is not a metrics file")
                if line.isspace():
                    continue
                record = _json_object(line)
                if record is not None:
                    yield record
                elif line.endswith(b"\n"):
                    raise UserError(f"{path}: line {number} is not a JSON object; remove that line")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read_csv(path: Path, max_rows: int = 10_000) -> list[dict[str, str]]:
    """The first `max_rows` rows of a CSV file with a header line, as text.

    Raises:
        UserError: unreadable, too large, or not CSV.
    """
    lines = read_text(path).splitlines()
    try:
        reader = csv.DictReader(lines)
        return [
            {key: value or "" for key, value in row.items() if isinstance(key, str)}
            for _, row in zip(range(max_rows), reader, strict=False)
        ]
    except csv.Error as error:
        raise UserError(f"{path}: not valid CSV ({error}); write it again") from error
