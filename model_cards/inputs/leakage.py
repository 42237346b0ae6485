"""Reads the leakage guard's settings and findings from a dataset's `build.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.cards.leakage import guard_line, match_line, relation_text
from biovfm_hf.reading.documents import finite, read_json

MAX_OVERLAPS = 200


@dataclass(frozen=True)
class Leakage:
    """The guard's mode, images of benchmarks compared with, {benchmark image set: images left out}, and overlaps.

    `kept` is {source: its images in the dataset}, None if not stated. An overlap is (source, benchmark,
    their relation by the source's record).
    """

    mode: str
    compared: int
    matches: dict[str, int]
    overlaps: list[tuple[str, str, str]]
    kept: dict[str, int] | None = None


def read_leakage(build: Path) -> Leakage | None:
    """The guard's part of a dataset folder's `build.json`, or None if there is no such file.

    Raises:
        UserError: the file is not JSON.
    """
    content = read_json(build) if build.is_file() else None
    if not isinstance(content, dict):
        return None
    matches = _mapping(content.get("benchmark_matches"))
    rows, sources = content.get("overlaps"), content.get("sources")
    return Leakage(
        mode=str(_mapping(content.get("options")).get("leakage") or "not stated"),
        compared=int(finite(content.get("benchmark_images")) or 0),
        matches={str(name): int(finite(count) or 0) for name, count in matches.items()},
        overlaps=[_overlap(row) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else [],
        kept={str(name): int(finite(_mapping(each).get("kept")) or 0) for name, each in sources.items()}
        if isinstance(sources, dict)
        else None,
    )


def leakage_lines(leakage: Leakage | None) -> list[str]:
    """Sentences for a card or report."""
    if leakage is None:
        return ["Not recorded: the dataset folder has no build.json."]
    matches = [match_line(matched, count) for matched, count in sorted(leakage.matches.items())]
    return [guard_line(leakage.mode, leakage.compared), *matches]


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _overlap(row: dict[str, Any]) -> tuple[str, str, str]:
    relation = relation_text(str(row.get("relation") or ""), str(row.get("note") or ""), bool(row.get("verified")))
    return str(row.get("source")), str(row.get("benchmark")), relation
