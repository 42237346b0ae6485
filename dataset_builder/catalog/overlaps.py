"""What the records say of overlaps with benchmarks: which inputs the guard leaves out, and what the card tells."""

from collections.abc import Callable
from typing import Any

from .globs import compile_regex
from .source import Source


def outside_benchmarks(source: Source, mode: str) -> Callable[[str], str | None]:
    """The record's part of the guard: a function from a path (relative to the raw folder) to a reason or None."""
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
    """What a record says of overlaps with benchmarks, for the report."""
    names = ("benchmark", "relation", "part", "note", "verified")
    rows = ({name: getattr(overlap, name) for name in names} for overlap in source.overlaps if overlap.benchmark)
    return [{"source": source.id, **row} for row in rows]
