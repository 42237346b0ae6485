"""Licences of a dataset's sources, read from the tables of its card."""

import re
from pathlib import Path

from .files import read_readme

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_BAR = re.compile(r"(?<!\\)\|")


def read_licences(readme: Path, kept: dict[str, int]) -> dict[str, str]:
    """{source id: licence} as the card's table of sources states it; ids that cannot be told apart are left out.

    The table is the one with a `source` (or `id`) column and a `licence`, `license` or `terms` column. A row belongs
    to the id that its name spells in lower case with hyphens. Where names differ from ids, a table with one row per
    source is read in the order of the ids, and a row counts only if it also states that source's number of images.

    Args:
        readme: the dataset's README.md.
        kept: images of each source id.
    """
    rows = _licence_rows(readme)
    by_name: dict[str, str] = {}
    for name, licence, _ in rows:
        for key in (slug(name.split(" (")[0]), slug(name)):
            by_name.setdefault(key, licence)
    found = {source: by_name[slug(source)] for source in kept if slug(source) in by_name}
    if len(rows) == len(kept):
        for source, (_, licence, cells) in zip(sorted(kept), rows, strict=True):
            if f"{kept[source]:,}" in cells:
                found.setdefault(source, licence)
    return found


def slug(name: str) -> str:
    """Lower case, with a hyphen for everything that is neither letter nor digit, as source ids are written."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _licence_rows(readme: Path) -> list[tuple[str, str, list[str]]]:
    """(source, licence, all cells) of each row of the tables that have both columns."""
    rows: list[tuple[str, str, list[str]]] = []
    columns: tuple[int, int] | None = None
    inside = False
    for line in read_readme(readme).splitlines():
        if not line.lstrip().startswith("|"):
            inside = False
            continue
        cells = [_LINK.sub(r"\1", cell.strip().strip("`")) for cell in _BAR.split(line.strip().strip("|"))]
        if not inside:
            inside, columns = True, _licence_columns(cells)
        elif columns and len(cells) > max(columns) and not set("".join(cells)) <= set("-: "):
            rows.append((cells[columns[0]], cells[columns[1]].replace("\\|", "|"), cells))
    return rows


def _licence_columns(header: list[str]) -> tuple[int, int] | None:
    words = [cell.lower() for cell in header]
    source = next((i for i, word in enumerate(words) if word in ("id", "source id")), None)
    if source is None:
        source = next((i for i, word in enumerate(words) if word == "source"), None)
    licence = next((i for i, word in enumerate(words) if word.startswith(("licence", "license", "terms"))), None)
    return None if source is None or licence is None else (source, licence)
