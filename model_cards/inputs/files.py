"""Bounded reading of the JSON, YAML, CSV and text files that the other stages leave."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError

MAX_DOCUMENT_BYTES = 64 * 2**20
MAX_README_BYTES = 8 * 2**20
MAX_LINE_BYTES = 2**20


def read_text(path: Path, max_bytes: int = MAX_DOCUMENT_BYTES) -> str:
    """The UTF-8 text of `path`; bytes that are not UTF-8 become replacement characters.

    Raises:
        UserError: the file is missing, unreadable, or larger than `max_bytes`.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    if len(raw) > max_bytes:
        raise UserError(f"{path}: larger than {max_bytes // 2**20} MiB, so it is not one of ours; give another file")
    return raw.decode("utf-8", errors="replace")


def read_readme(path: Path) -> str:
    """The text of a README.md of at most 8 MiB, "" where there is none.

    Raises:
        UserError: as `read_text`.
    """
    return read_text(path, MAX_README_BYTES) if path.is_file() else ""


def read_json(path: Path) -> Any:
    """The JSON value in `path`.

    Raises:
        UserError: unreadable, too large, nested too deep, or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{path}: not valid JSON ({reason}); write it again") from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of `path`, one per line, read as a stream. A torn last line (a run that was killed) is skipped.

    Raises:
        UserError: the file cannot be read, a line is longer than 1 MiB, or a line other than the last is no object.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(f"{path}: line {number} is longer than 1 MiB; this is no metrics file")
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


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file (safe loader, at most 1 MiB, no aliases, so that nothing can expand without bound).

    Raises:
        UserError: unreadable, too large, or not a YAML mapping.
    """
    import yaml

    text = read_text(path, 2**20)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise UserError(f"{path}: has YAML aliases, which are not read; write the values out")
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not valid YAML ({str(error).splitlines()[0]}); mend it") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a YAML mapping; it should hold `name: value` lines")
    return value


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


def finite(value: object) -> float | None:
    """`value` as a float if it is a finite number (bool is not), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
