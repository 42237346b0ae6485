"""Overlaps with benchmarks by the records: the inputs that the guard leaves out, and rows for the card."""

from collections.abc import Callable
from typing import Any

from .globs import compile_regex
from .source import Source


def outside_benchmarks(source: Source, mode: str) -> Callable[[str], str | None]:
    """The guard of one record: a function from a path (relative to the raw folder) to a reason or None."""
    if mode == "paper":
        return lambda path: None
    overlaps = [overlap for overlap in source.overlaps if overlap.benchmark]
    rules = [(compile_regex(overlap.part) if overlap.part else None, overlap) for overlap in overlaps]

    def reason(path: str) -> str | None:
        for part, overlap in rules:
            if part is None or part.search(path):
                return f"leakage: {overlap.relation.replace('_', ' ')} {overlap.benchmark}"
        return None

    return reason


def overlap_rows(source: Source) -> list[dict[str, Any]]:
    """A record's overlaps with benchmarks, as rows for the report."""
    names = ("benchmark", "relation", "part", "note", "verified")
    rows = ({name: getattr(overlap, name) for name in names} for overlap in source.overlaps if overlap.benchmark)
    return [{"source": source.id, **row} for row in rows]
