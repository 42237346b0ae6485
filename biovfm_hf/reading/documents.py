"""Readers of text, JSON and YAML from users and other stages: bounded in size, with one-line errors."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, one_line

MAX_BYTES = 64 << 20
MAX_YAML_BYTES = 1 << 20
MAX_DEPTH = 64  # of YAML: libyaml recurses without bound
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, five times as fast where libyaml is there


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
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
        raise UserError(f"{path}: larger than {max_bytes >> 20} MiB, so not written by biovfm; give another file")
    return raw.decode("utf-8", errors="replace")


def read_json(path: Path, remedy: str = "write it again") -> Any:
    """The JSON value in `path`, of at most 64 MiB.

    Raises:
        UserError: unreadable, too large, nested too deep, or not JSON; it ends in `remedy`.
    """
    try:
        return json.loads(read_text(path))
    except RecursionError as error:
        raise UserError(f"{path}: not valid JSON (nested too deep); {remedy}") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({one_line(error)}); {remedy}") from error


def read_yaml(path: Path, remedy: str = "mend it") -> dict[str, Any]:
    """The mapping in a YAML file of at most 1 MiB.

    Raises:
        UserError: unreadable, too large, not a mapping, or not YAML as `parse_yaml` reads it; it ends in `remedy`.
    """
    value = parse_yaml(read_text(path, MAX_YAML_BYTES), str(path), remedy)
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a YAML mapping; it should hold `name: value` lines; {remedy}")
    return value


def parse_yaml(text: str, name: str, remedy: str = "mend it") -> Any:
    """The value that YAML `text` stands for. It cannot expand without bound: aliases are refused, depth is limited.

    Args:
        text: content of a file or of a command line's word.
        name: of the text, to begin error messages.
        remedy: advice that ends error messages.

    Raises:
        UserError: not YAML, contains aliases, or nested deeper than 64.
    """
    try:
        depth = 0
        for event in yaml.parse(text, YAML_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{name}: has YAML aliases, which are not read; write the values out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise UserError(f"{name}: not valid YAML (nested deeper than {MAX_DEPTH}); {remedy}")
        return yaml.load(text, YAML_LOADER)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that only looks like one
        raise UserError(f"{name}: not valid YAML ({one_line(error)}); {remedy}") from error


def finite(value: object) -> float | None:
    """`value` as a float if it is a finite number (bool is not), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_number(value: Any) -> Any:
    """Text that is a number, such as 1e-5, which YAML reads as text, as a float; any other value as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
