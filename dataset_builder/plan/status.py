"""Counts the files of each source on this disk, listed as a build would list them."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from biovfm_hf.errors import UserError
from biovfm_hf.reading.image_files import NOT_INPUT

from ..catalog.load import load_catalog, load_sources
from ..catalog.selection import HIDDEN_FILE, HIDDEN_FOLDER, find_tables
from ..catalog.source import Source, TableRule
from .listing import list_items


def sources_status(raw: str | Path, sources: Sequence[str | Path] | None = None) -> list[dict[str, Any]]:
    """The state of sources below `raw`, one `source_status` each; by default of the whole catalogue.

    Raises:
        UserError: `raw` is not a folder, or there is no such source.
    """
    raw = Path(raw)
    if not raw.is_dir():
        raise UserError(f"{raw} is not a folder; --raw names the folder that holds one folder per source")
    chosen = load_catalog() if sources is None else load_sources(sources)
    return [source_status(source, raw) for source in chosen]


def on_disk(source: Source, raw: Path) -> bool:
    """Whether anything lies in the source's folder."""
    folder = raw / source.folder
    return folder.is_dir() and any(folder.iterdir())


def source_status(source: Source, raw: Path) -> dict[str, Any]:
    """State of one source below `raw`: `found`, `partly`, `missing` or `skipped`, with counts by reason.

    `found`: the training part is complete, or its size is not established and something was selected. `skipped`:
    files are there, but the layout or the training part is not established. `missing`: no file there could belong to
    the source by its name. Counts are files, archive members, HDF5 rows or DICOM series, and skipped folders.
    """
    selected, excluded = 0, Counter[str]()
    if on_disk(source, raw):
        items = tqdm(
            list_items(source, raw), desc=source.id, unit=" files", leave=False, disable=not sys.stderr.isatty()
        )
        for item in items:
            if item.excluded is None:
                selected += 1
            else:
                excluded[item.excluded] += 1
    if not selected and excluded.keys() <= {HIDDEN_FILE, HIDDEN_FOLDER, NOT_INPUT}:
        state = "missing"
    elif source.train is None:
        state = "skipped"
    else:
        state = "found" if selected and selected >= (source.expected_items or 1) else "partly"
    return {
        "id": source.id,
        "state": state,
        "selected": selected,
        "expected": source.expected_items,
        "excluded": dict(excluded.most_common()),
        "lists_missing": _missing_lists(source, raw) if state != "missing" else [],
    }


def _missing_lists(source: Source, raw: Path) -> list[str]:
    """Missing tables that the record's rules for training part, exclusions, subject and anatomy need."""
    rules = (source.train, *(rule.table for rule in source.exclude), source.subject, source.anatomy)
    tables = dict.fromkeys(rule.table for rule in rules if isinstance(rule, TableRule))
    return [table for table in tables if not find_tables(raw / source.folder, table)]
