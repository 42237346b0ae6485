"""What the dataset builder's leakage guard was told and what it found, read from `build.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import finite, read_json

MODES = {
    "strict": "every source, or part of one, that its record connects with a benchmark was left out",
    "paper": "the paper's list of sources was kept as it is",
}
MAX_OVERLAPS = 200


@dataclass(frozen=True)
class Leakage:
    """The guard's mode, images of benchmarks compared with, {benchmark image set: images left out}, and overlaps.

    An overlap is (source, benchmark, what the source's record says of the two).
    """

    mode: str
    compared: int
    matches: dict[str, int]
    overlaps: list[tuple[str, str, str]]


def read_leakage(build: Path) -> Leakage | None:
    """The guard's part of a dataset folder's `build.json`, or None where there is no such file.

    Raises:
        UserError: the file is not JSON.
    """
    content = read_json(build) if build.is_file() else None
    if not isinstance(content, dict):
        return None
    matches = _mapping(content.get("benchmark_matches"))
    rows = content.get("overlaps")
    return Leakage(
        mode=str(_mapping(content.get("options")).get("leakage") or "not stated"),
        compared=int(finite(content.get("benchmark_images")) or 0),
        matches={str(name): int(finite(count) or 0) for name, count in matches.items()},
        overlaps=[_overlap(row) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else [],
    )


def leakage_lines(leakage: Leakage | None) -> list[str]:
    """Sentences for a card or report."""
    if leakage is None:
        return ["Not recorded: the dataset folder has no build.json."]
    lines = [f"Guard {leakage.mode}: {MODES.get(leakage.mode, 'not known to this version')}."]
    if leakage.compared:
        left_out = f"{sum(leakage.matches.values()):,} that showed the same were left out"
        lines.append(f"Every image was compared with {leakage.compared:,} images of benchmarks; {left_out}.")
    else:
        lines.append("No image was compared with those of benchmarks: the builder was given none.")
    return lines


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _overlap(row: dict[str, Any]) -> tuple[str, str, str]:
    told = str(row.get("relation") or "").replace("_", " ")
    told += f"; {row['note']}" if row.get("note") else ""
    return str(row.get("source")), str(row.get("benchmark")), told + ("" if row.get("verified") else " (not verified)")
