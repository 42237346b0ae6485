"""The `biovfm sources` command: describes the 61 sources, how to obtain them, and which are on this disk."""

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required

from .catalog.downloading import download_source
from .catalog.load import load_catalog
from .catalog.records import load_source
from .catalog.source import NOT_ESTABLISHED, Source
from .plan.status import on_disk, sources_status
from .source_facts import facts_of, own_facts, selection_lines, steps_to_obtain

EXAMPLES = """examples:
  biovfm sources list                              every source, and whether it is in ./raw
  biovfm sources show rossa                        everything known of one source, and how to obtain it
  biovfm sources show my_hospital.yaml             the same for a record of your own
  biovfm sources status --raw /data/raw            what of each source is there, files counted
  biovfm sources download hrf --raw /data/raw      fetch an open source (its terms are shown first)

A source lies in RAW/ID as it was released: archives (ZIP, TAR) may stay packed.
"""
_RECORD = "id of a source, or path of a record (YAML)"
_RAW = "folder of the raw sources"
_JSON = "print JSON instead of text"


@dataclass(frozen=True)
class _Options:
    """Options of one action; a wrong one raises UserError."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class ListOptions(_Options):
    """Options of `list`."""

    raw: Path = option(Path("raw"), _RAW, metavar="DIR")
    json: bool = option(False, _JSON)


@dataclass(frozen=True)
class ShowOptions(_Options):
    """Options of `show`."""

    id: str = argument(_RECORD)
    raw: Path = option(Path("raw"), _RAW, metavar="DIR")
    json: bool = option(False, _JSON)


@dataclass(frozen=True)
class StatusOptions(_Options):
    """Options of `status`; if `sources` is None, the whole catalogue."""

    raw: Path = required(_RAW, metavar="DIR")
    sources: tuple[str, ...] | None = option(
        None, "only these: ids or record paths (default: the whole catalogue)", metavar="A,B", commas=True
    )
    json: bool = option(False, _JSON)


@dataclass(frozen=True)
class DownloadOptions(_Options):
    """Options of `download`."""

    id: str = argument(_RECORD)
    raw: Path = required(_RAW, metavar="DIR")
    accept_terms: bool = option(False, "you have read and accept the source's terms")


def main(argv: list[str]) -> int:
    """Run `biovfm sources`; returns the exit status."""
    parser = CommandParser(
        prog="biovfm sources",
        description="The catalogue of the 61 public sources of BioVFM-21M, how to obtain them, and which are here.",
        epilog=EXAMPLES,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (_, _, summary) in _ACTIONS.items():
        actions.add_parser(name, help=summary, add_help=False)  # each action has a parser of its own
    name = parser.parse_args(argv[:1]).action
    kind, act, summary = _ACTIONS[name]
    act(parse_options(CommandParser(prog=f"biovfm sources {name}", description=summary), kind, argv[1:]))
    return 0


def list_sources(raw: str | Path = "raw") -> list[dict[str, Any]]:
    """The catalogue: id, modality, images in the paper (None: not established), access, whether it is in `raw`."""
    return [
        {
            "id": source.id,
            "modality": list(source.modalities),
            "images": source.images_in_paper,
            "access": source.access,
            "on_disk": on_disk(source, Path(raw)),
            "in_paper": source.in_paper,
        }
        for source in load_catalog()
    ]


def show_source(id: str | Path) -> dict[str, Any]:
    """All fields of the record of a catalogue id, or of a YAML file; and the steps to obtain the source.

    Raises:
        UserError: there is no such record, or it is wrong.
    """
    source = load_source(id)
    return {**asdict(source), "how_to_obtain": steps_to_obtain(source)}


def download(id: str | Path, raw: str | Path, accept_terms: bool = False) -> list[Path]:
    """Fetch a source that has open direct links into `raw`; called again, it resumes.

    Returns:
        The files.

    Raises:
        UserError: it has no open link, its terms are not accepted, or the transfer fails.
    """
    source = load_source(id)
    if not source.files:
        raise UserError(f"{source.id} has no open direct link; for the steps see: biovfm sources show {id}")
    if not accept_terms:
        raise UserError(f"the terms of {source.id} are not accepted; read them, then add --accept-terms")
    return list(download_source(source, Path(raw)))


def _list(options: ListOptions) -> None:
    rows = list_sources(options.raw)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
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
    present = Counter(row["in_paper"] for row in rows if row["on_disk"])
    print(
        f"\n{len(paper)} sources of the paper, {total:,} images; {present[True]} of them on disk in {options.raw}"
        + (f", and {present[False]} outside the paper" if present[False] else "")
    )


def _modalities(source: Source) -> str:
    return source.modality or f"{source.modalities[0]} and {len(source.modalities) - 1} more"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, tuple("-" * width for width in widths), *rows):
        cells = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _show(options: ShowOptions) -> None:
    if options.json:
        print(json.dumps(show_source(options.id), indent=1, ensure_ascii=False))
        return
    source = load_source(options.id)
    print(source.name)
    own = Path(options.id).is_file()
    if not own:
        print("one of the 61 sources of BioVFM-21M" if source.in_paper else "outside the 61 sources of BioVFM-21M")
    print()
    for label, value in own_facts(source) if own else facts_of(source):
        _field(label, value)
    if own:
        print(f"\nIn {options.raw / source.folder}")
        for line in selection_lines(source, options.raw):
            print(f"  {line}")
        return
    for overlap in source.overlaps:
        doubt = "" if overlap.verified else " (unverified)"
        part = f"; paths matching {overlap.part}" if overlap.part else ""
        _field("overlap", f"{overlap.relation} {overlap.benchmark or overlap.source}{doubt}: {overlap.note}{part}")
    _field("overlaps, in words", source.overlap_note)
    _field("evidence", "\n".join(source.evidence) or None)
    _field("notes", source.notes or "none")
    print("\nHow to obtain it")
    _print_steps(source)


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


def _print_steps(source: Source) -> None:
    for number, step in enumerate(steps_to_obtain(source), 1):
        print(textwrap.fill(step, 110, initial_indent=f"  {number}. ", subsequent_indent="     "))


def _status(options: StatusOptions) -> None:
    rows = sources_status(options.raw, options.sources)
    if options.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
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


def _download(options: DownloadOptions) -> None:
    source = load_source(options.id)
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
    for file in download(options.id, options.raw, options.accept_terms or _accepts_terms()):
        print(file)
    print(f"next: biovfm sources status --raw {options.raw} --sources {source.id}")


def _accepts_terms() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("\nDo you accept the terms of this source? [y/N] ").strip().lower() in ("y", "yes")


_ACTIONS: dict[str, tuple[type[Any], Callable[[Any], None], str]] = {
    "list": (ListOptions, _list, "a table of all sources"),
    "show": (ShowOptions, _show, "everything about one source, and how to obtain it"),
    "status": (StatusOptions, _status, "what of each source is on disk, files counted"),
    "download": (DownloadOptions, _download, "fetch a source that has open direct links; run again to resume"),
}
