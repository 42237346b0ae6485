"""`biovfm sources`: what the 61 sources are, how to obtain them, and what of them is on this disk."""

import argparse
import json
import sys
import textwrap
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError

from .catalog.load import load_catalog
from .catalog.records import load_source
from .catalog.source import NOT_ESTABLISHED, Source, TableRule
from .plan.listing import list_items

EXAMPLES = """examples:
  biovfm sources list                              every source, and whether it lies in ./raw
  biovfm sources show rossa                        everything known of one source, and how to obtain it
  biovfm sources show my_hospital.yaml             the same for a record of your own
  biovfm sources status --raw /data/raw            what of each source is there, files counted
  biovfm sources download hrf --raw /data/raw      fetch an open source (its terms are shown first)

A source lies in RAW/ID as it was released: archives (ZIP, TAR) may stay packed.
"""
_WAYS = {
    "registration": "Register on the homepage and accept its agreement; the files can be fetched after that.",
    "request": "Ask the authors for access on the homepage (a signed form or agreement); they answer with a link.",
    "credentialed": "Become a credentialed user of PhysioNet (identity check, training course, signed agreement).",
    "kaggle": "With a Kaggle account that has accepted the rules: kaggle competitions download -c NAME, or "
    "kaggle datasets download NAME.",
}


def main(argv: list[str]) -> int:
    """Run `biovfm sources`; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return {"list": _list, "show": _show, "status": _status, "download": _download}[arguments.action](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biovfm sources",
        description="The catalogue of the 61 public sources of BioVFM-21M: list, show, check and download them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="a table of all sources")
    shown = actions.add_parser("show", help="everything about one source, and how to obtain it")
    shown.add_argument("id", help="id of a source, or path of a record (YAML)")
    checked = actions.add_parser("status", help="what of each source is on disk, files counted")
    checked.add_argument("--sources", help="only these: ids or record paths, separated by commas")
    fetched = actions.add_parser("download", help="fetch a source that has open direct links; run again to resume")
    fetched.add_argument("id", help="id of a source, or path of a record (YAML)")
    fetched.add_argument("--accept-terms", action="store_true", help="you have read and accept the source's terms")
    listed.add_argument("--raw", type=Path, default=Path("raw"), help="folder of the raw sources (default: ./raw)")
    for action in (checked, fetched):
        action.add_argument("--raw", type=Path, required=True, help="folder of the raw sources")
    for action in (listed, shown, checked):
        action.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def _list(arguments: argparse.Namespace) -> int:
    rows = [
        {
            "id": source.id,
            "modality": list(source.modalities),
            "images": source.images_in_paper,
            "access": source.access,
            "on_disk": _on_disk(source, arguments.raw),
            "in_paper": source.in_paper,
        }
        for source in load_catalog()
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    _table(
        ("source", "modality", "images", "access", "on disk"),
        [
            (
                str(row["id"]) + ("" if row["in_paper"] else " (outside the paper)"),
                _modalities(source),
                NOT_ESTABLISHED if source.images_in_paper is None else f"{source.images_in_paper:,}",
                source.access or NOT_ESTABLISHED,
                "yes" if row["on_disk"] else "no",
            )
            for row, source in zip(rows, load_catalog(), strict=True)
        ],
        right=(2,),
    )
    paper = [source for source in load_catalog() if source.in_paper]
    total = sum(source.images_in_paper or 0 for source in paper)
    present = sum(bool(row["on_disk"]) for row in rows)
    print(f"\n{len(paper)} sources of the paper, {total:,} images; {present} on disk in {arguments.raw}")
    return 0


def _modalities(source: Source) -> str:
    return source.modality or f"{source.modalities[0]} and {len(source.modalities) - 1} more"


def _on_disk(source: Source, raw: Path) -> bool:
    folder = raw / source.folder
    return folder.is_dir() and any(folder.iterdir())


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, tuple("-" * width for width in widths), *rows):
        cells = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _show(arguments: argparse.Namespace) -> int:
    source = load_source(arguments.id)
    if arguments.json:
        print(json.dumps({**asdict(source), "how_to_obtain": _steps(source)}, indent=1, ensure_ascii=False))
        return 0
    print(source.name)
    print("one of the 61 sources of BioVFM-21M" if source.in_paper else "outside the 61 sources of BioVFM-21M")
    print()
    for label, value in _facts(source):
        _field(label, value)
    for overlap in source.overlaps:
        doubt = "" if overlap.verified else " (unverified)"
        part = f"; paths matching {overlap.part}" if overlap.part else ""
        _field("overlap", f"{overlap.relation} {overlap.benchmark or overlap.source}{doubt}: {overlap.note}{part}")
    _field("overlaps, in words", source.overlap_note)
    _field("evidence", "\n".join(source.evidence) or None)
    _field("notes", source.notes or "none")
    print("\nHow to obtain it")
    _print_steps(source)
    return 0


def _facts(source: Source) -> list[tuple[str, Any]]:
    train = source.training_part
    if source.train is None:
        train = f"{NOT_ESTABLISHED}: nothing of this source is selected" + (f" ({train})" if train else "")
    return [
        ("id", source.id),
        ("modality", ", ".join(source.modalities)),
        ("anatomy", ", ".join(source.anatomies)),
        ("dimensionality", source.dimensionality),
        ("year", source.year),
        ("images in the paper", source.images_in_paper),
        ("files selected", source.expected_items),
        ("homepage", source.homepage),
        ("access", source.access),
        ("licence", source.licence),
        ("terms", source.terms),
        ("file formats", ", ".join(source.file_formats) if source.file_formats else None),
        ("raw layout", source.layout if source.layout_established else f"{NOT_ESTABLISHED}\n{source.layout or ''}"),
        ("patterns read", "\n".join(f"{rule.pattern} ({rule.kind})" for rule in source.items) or None),
        ("splits", source.splits),
        ("training part", train),
        ("subject", source.subject_note),
        ("citation", source.citation),
    ]


def _field(label: str, value: Any) -> None:
    text = (
        NOT_ESTABLISHED
        if value is None
        else f"{value:,}"
        if isinstance(value, int) and label != "year"
        else str(value)
    )
    lines = [
        piece
        for line in text.rstrip().split("\n")
        for piece in (textwrap.wrap(line, 88, break_long_words=False) if "  " not in line else [line]) or [""]
    ]
    for number, line in enumerate(lines):
        print(f"{label if number == 0 else '':<20} {line}".rstrip())


def _steps(source: Source) -> list[str]:
    """What to do to have the source in the raw folder."""
    licence = source.licence or f"{NOT_ESTABLISHED}; read them on the homepage"
    steps = [f"Read the terms: {licence}. Homepage: {source.homepage or NOT_ESTABLISHED}."]
    if source.access in _WAYS:
        steps.append(_WAYS[source.access])
    if source.files:
        steps.append(f"Run: biovfm sources download {source.id} --raw RAW")
    steps.append(f"By hand: {source.obtain or NOT_ESTABLISHED}.")
    steps.append(
        f"Put the release into RAW/{source.folder}; ZIP and TAR archives may stay packed, RAR and split ones may not."
    )
    if not source.layout_established:
        steps.append("The raw layout is not established, so the build skips this source and says so.")
    else:
        steps.append(f"Check: biovfm sources status --raw RAW --sources {source.id}")
    return steps


def _print_steps(source: Source) -> None:
    for number, step in enumerate(_steps(source), 1):
        print(textwrap.fill(step, 110, initial_indent=f"  {number}. ", subsequent_indent="     "))


def _status(arguments: argparse.Namespace) -> int:
    if not arguments.raw.is_dir():
        raise UserError(f"{arguments.raw} is no folder; --raw names the folder that holds one folder per source")
    chosen = arguments.sources.split(",") if arguments.sources else None
    sources = [load_source(name) for name in chosen] if chosen else list(load_catalog())
    rows = [source_status(source, arguments.raw) for source in sources]
    if arguments.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    _table(
        ("source", "state", "selected", "expected", "excluded", "most frequent reason"),
        [
            (
                row["id"],
                row["state"],
                f"{row['selected']:,}",
                "?" if row["expected"] is None else f"{row['expected']:,}",
                f"{sum(row['excluded'].values()):,}",
                max(row["excluded"], key=row["excluded"].get, default=""),
            )
            for row in rows
        ],
        right=(2, 3, 4),
    )
    for row in rows:
        for table in row["lists_missing"]:
            print(f"{row['id']}: the list {table} is missing")
    counts = Counter(row["state"] for row in rows)
    print("\n" + ", ".join(f"{count} {state}" for state, count in counts.items()))
    return 0


def source_status(source: Source, raw: Path) -> dict[str, Any]:
    """State of one source below `raw`: `found`, `partly`, `missing` or `skipped`, with counts by reason.

    `found`: the training part is complete, or its size is not established and something was selected. `skipped`:
    files are there, but the layout or the training part is not established; `missing`: nothing is there that could be
    of the source by its name. Counts are files, archive members, HDF5 rows or DICOM series, and folders passed over.
    """
    from biovfm_hf.image_files import NOT_INPUT

    from .catalog.selection import HIDDEN_FILE, HIDDEN_FOLDER

    selected, excluded = 0, Counter[str]()
    if _on_disk(source, raw):
        from tqdm import tqdm

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
    """Tables that the record's rules for training part, exclusions, subject and anatomy need, and that are missing."""
    from .catalog.selection import find_tables

    rules = (source.train, *(rule.table for rule in source.exclude), source.subject, source.anatomy)
    tables = dict.fromkeys(rule.table for rule in rules if isinstance(rule, TableRule))
    return [table for table in tables if not find_tables(raw / source.folder, table)]


def _download(arguments: argparse.Namespace) -> int:
    source = load_source(arguments.id)
    if not source.files:
        _print_steps(source)
        raise UserError(f"{source.id} has no open direct link; follow the steps above")
    print(f"{source.name}\n")
    _field("licence", source.licence)
    _field("terms", source.terms)
    _field("homepage", source.homepage)
    _field("citation", source.citation)
    for entry in source.files:
        _field("file", f"{entry.name} from {entry.url}")
    if not arguments.accept_terms and not _asked():
        raise UserError(f"the terms of {source.id} are not accepted; read them, then add --accept-terms")
    from .catalog.downloading import download_source

    for file in download_source(source, arguments.raw):
        print(file)
    print(f"next: biovfm sources status --raw {arguments.raw} --sources {source.id}")
    return 0


def _asked() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("\nDo you accept the terms of this source? [y/N] ").strip().lower() in ("y", "yes")
